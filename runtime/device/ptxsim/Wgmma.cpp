// wgmma: products of a warpgroup whose B, and perhaps A, are shared memory that a descriptor names.
// Each of the four warps computes its 16 rows by itself, at once; until a wait its accumulators
// count as undefined and the shared memory as lent. With g = lane / 4, q = lane % 4:
//   D register r: row g + 8 (r >> 1 & 1), column 8 (r >> 2) + 2 q + (r & 1)
//   A register r: as that of mma.m16n8k16, or m16n8k32 where elements have 8 bits
#include "runtime/device/ptxsim/Access.h"
#include "runtime/device/ptxsim/Elements.h"
#include "runtime/device/ptxsim/Isa.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

namespace {

constexpr unsigned kRows = 16, kMostColumns = 256;
constexpr unsigned kDepthBytes = 32, kMostDepth = 32; // a row of A or B: 16, or 32 elements

// A matrix in shared memory in the canonical layouts of the PTX manual. Only 16 bit elements may be
// transposed.
struct Descriptor {
  uint32_t address, leading, stride; // bytes
  unsigned swizzle;                  // bytes of a row that is permuted, or 0
  bool transposed;                   // rows (of A, columns of B) follow each other, not k

  Descriptor(uint64_t bits, bool transposed)
      : address(uint32_t(bits & 0x3fff) << 4), leading(uint32_t(bits >> 16 & 0x3fff) << 4),
        stride(uint32_t(bits >> 32 & 0x3fff) << 4), swizzle(bits >> 62 ? 256u >> (bits >> 62) : 0),
        transposed(transposed) {}

  // Where the 16 bytes lie that begin at ROW and K: along k, or along rows if transposed. K counts
  // 16 bit elements.
  uint32_t chunk(unsigned row, unsigned k) const {
    uint32_t at = address;
    unsigned width = swizzle ? swizzle : 16;
    if (!transposed) {
      at += row / 8 * stride + row % 8 * width;
      at += swizzle ? 2 * k : k / 8 * leading;
    } else if (swizzle) {
      unsigned perRow = swizzle / 2;
      at += row / perRow * leading + row % perRow * 2 + k % 8 * width + k / 8 * stride;
    } else {
      at += row / 8 * stride + k % 8 * width + k / 8 * leading;
    }
    // 16 byte pieces are permuted by the number of the row of 128 bytes they lie in.
    if (swizzle)
      at ^= (at >> 7 & (swizzle / 16 - 1)) << 4;
    return at;
  }
};

// With a size that is known, which is faster than markBytes where chunks are all that there is.
void markChunk(Block &block, uint32_t at, Byte state) {
  std::memset(block.shadow.data() + at, int(state), 16);
}

// Reads ROWS by 32 bytes to TO[row], and names the chunks. False after a report.
bool readShared(Warp &warp, const Instruction &i, const Descriptor &from, unsigned firstRow,
                unsigned rows, uint8_t (*to)[kDepthBytes], std::vector<uint32_t> &chunks) {
  Block &block = *warp.block;
  constexpr unsigned depth = kDepthBytes / 2;
  chunks.reserve(chunks.size() + rows * 2);
  for (unsigned n = 0; n < rows * 2; ++n) {
    unsigned row = from.transposed ? n / depth * 8 : n / 2;
    unsigned k = from.transposed ? n % depth : n % 2 * 8;
    uint32_t at = from.chunk(firstRow + row, k);
    Place place = reachRange(warp, i, 0, Space::Shared, at, 16, Touch::Read);
    if (!place.data || !checkProxy(warp, i, 0, block, at, 16, true))
      return false;
    if (block.grid->options.uninitialised && !allWritten(place.shadow, 16)) {
      block.grid->report(warp, i, 0, "multiplies shared " + hexText(at) + ", which nothing wrote");
      return false;
    }
    chunks.push_back(at);
    if (!from.transposed)
      std::memcpy(&to[row][2 * k], place.data, 16);
    else
      for (unsigned e = 0; e < 8; ++e)
        std::memcpy(&to[row + e][2 * k], place.data + 2 * e, 2);
  }
  return true;
}

template <class T> struct Matrices {
  alignas(64) T a[kRows][kMostDepth], b[kMostDepth][kMostColumns], c[kRows][kMostColumns];
};

template <class T, unsigned depth>
MOE_PTXSIM_INLINE void accumulate(Matrices<T> *product, unsigned columns) {
  // Sums of numbers of 8 bits wrap, so they are taken without sign.
  using Sum = std::conditional_t<std::is_same_v<T, float>, float, uint32_t>;
  for (unsigned row = 0; row < kRows; ++row)
    for (unsigned first = 0; first < columns; first += 8) {
      Sum sums[8];
      for (unsigned n = 0; n < 8; ++n)
        sums[n] = Sum(product->c[row][first + n]);
      for (unsigned k = 0; k < depth; ++k)
        for (unsigned n = 0; n < 8; ++n)
          sums[n] += Sum(product->a[row][k]) * Sum(product->b[k][first + n]);
      for (unsigned n = 0; n < 8; ++n)
        product->c[row][first + n] = T(sums[n]);
    }
}

bool requireWarpgroup(Warp &warp, const Instruction &i) {
  if (!warp.requireConverged(i))
    return false;
  if (warp.active == ~0u && warp.block->warps.size() >= (warp.index / 4u + 1) * 4)
    return true;
  warp.block->grid->report(warp, i, firstLane(warp.active), "a warpgroup is four full warps");
  return false;
}

// What wgmma.fence saw in a register that products use.
Slot &fenced(Warp &warp, uint16_t slot) {
  return warp.fencedRegisters[warp.block->grid->entry.productIndex[slot]];
}

void fence(Warp &warp, const Instruction &i) {
  if (!requireWarpgroup(warp, i))
    return;
  const auto &slots = warp.block->grid->entry.productSlots;
  warp.fencedRegisters.resize(slots.size());
  for (size_t n = 0; n < slots.size(); ++n)
    warp.fencedRegisters[n] = warp.slots[slots[n]];
}

// What a product in flight left of a register, or the register's own state.
uint32_t undefinedOf(Warp &warp, uint16_t slot, bool &inFlight) {
  for (auto product = warp.products.rbegin(); product != warp.products.rend(); ++product)
    for (const auto &[result, bad] : product->results)
      if (result == slot) {
        inFlight = true;
        return bad;
      }
  return warp.undefined[slot];
}

// T: float or int32_t, of sums.
template <class T, Type typeA, Type typeB> void multiply(Warp &warp, const Instruction &i) {
  constexpr unsigned bits = bitsOf(typeA), elements = 32 / bits, depth = kDepthBytes * 8 / bits;
  static const auto run = versions<&accumulate<T, depth>>();
  Grid &grid = *warp.block->grid;
  bool fromRegisters = i.groupSize(1) > 1;
  const Operand &scale = warp.operand(i, 3), &descriptor = warp.operand(i, 2);
  if (!requireWarpgroup(warp, i) || !warp.requireDefined(i, scale, "the scale of D") ||
      !warp.requireDefined(i, descriptor, "the descriptor") ||
      (!fromRegisters && !warp.requireDefined(i, warp.operand(i, 1), "the descriptor")))
    return;
  bool adds = scale.kind == Operand::Predicate ? warp.readPredicate(scale, 0) : scale.value != 0;
  auto flag = [&](unsigned group, int64_t absent) {
    return group < i.groups ? warp.operand(i, group).value : absent;
  };
  bool mayTranspose = bits == 16;
  unsigned columns = i.opcode.n, results = i.groupSize(0);
  if (warp.fencedRegisters.empty())
    return grid.report(warp, i, 0, "no wgmma.fence was executed before");
  auto unchanged = [&](const Operand &o) {
    return !std::memcmp(&warp.slots[o.slot], &fenced(warp, o.slot), sizeof(Slot));
  };
  Warp::Product pending{warp.committedProducts, &i, {}, {}};
  Matrices<T> product;
  uint32_t badInputs = 0;
  T sign = T(flag(4, 1) * flag(5, 1));
  if (fromRegisters) {
    for (unsigned r = 0; r < 4; ++r) {
      const Operand &o = warp.operand(i, 1, r);
      if (!unchanged(o))
        return grid.report(warp, i, 0, "a register of A was written after the last wgmma.fence");
      badInputs |= warp.undefined[o.slot];
      for (unsigned lane = 0; lane < kLanes; ++lane)
        for (unsigned e = 0; e < elements; ++e)
          product.a[lane / 4 + 8 * (r & 1)][elements * (lane % 4 + 4 * (r >> 1)) + e] =
              sign * elementOf<T, typeA>(warp.words(o.slot)[lane] >> bits * e);
    }
  }
  auto valueOf = [](auto type, const uint8_t *row, unsigned k) {
    uint16_t value = 0;
    std::memcpy(&value, row + k * bits / 8, bits / 8);
    return elementOf<T, decltype(type)::value>(value);
  };
  uint8_t rows[kMostColumns][kDepthBytes];
  if (!fromRegisters) {
    Descriptor a(warp.longs(warp.operand(i, 1).slot)[0], mayTranspose && flag(6, 0));
    if (!readShared(warp, i, a, warp.index % 4 * kRows, kRows, rows, pending.shared))
      return;
    for (unsigned row = 0; row < kRows; ++row)
      for (unsigned k = 0; k < depth; ++k)
        product.a[row][k] = sign * valueOf(std::integral_constant<Type, typeA>(), rows[row], k);
  }
  Descriptor b(warp.longs(descriptor.slot)[0], mayTranspose && flag(i.groups - 1u, 0));
  if (!readShared(warp, i, b, 0, columns, rows, pending.shared))
    return;
  for (unsigned column = 0; column < columns; ++column)
    for (unsigned k = 0; k < depth; ++k)
      product.b[k][column] = valueOf(std::integral_constant<Type, typeB>(), rows[column], k);
  for (unsigned r = 0; r < results; ++r) {
    const Operand &o = warp.operand(i, 0, r);
    bool inFlight = false;
    uint32_t bad = undefinedOf(warp, o.slot, inFlight);
    if ((adds || inFlight) && !unchanged(o))
      return grid.report(
          warp, i, 0,
          "an accumulator was written after the last wgmma.fence, or while a product "
          "was in flight");
    pending.results.push_back({o.slot, (adds ? bad : 0) | (badInputs ? ~0u : 0)});
    for (unsigned lane = 0; lane < kLanes; ++lane)
      product.c[lane / 4 + 8 * (r >> 1 & 1)][8 * (r >> 2) + 2 * (lane % 4) + (r & 1)] =
          adds ? std::bit_cast<T>(uint32_t(warp.words(o.slot)[lane])) : T(0);
  }
  run(&product, columns);
  for (unsigned r = 0; r < results; ++r) {
    const Operand &o = warp.operand(i, 0, r);
    for (unsigned lane = 0; lane < kLanes; ++lane)
      warp.words(o.slot)[lane] = std::bit_cast<uint32_t>(
          product.c[lane / 4 + 8 * (r >> 1 & 1)][8 * (r >> 2) + 2 * (lane % 4) + (r & 1)]);
    fenced(warp, o.slot) = warp.slots[o.slot];
    warp.undefined[o.slot] = ~0u;
    warp.origin[o.slot] = i.line;
  }
  for (uint32_t at : pending.shared)
    markChunk(*warp.block, at, Byte::Lent);
  warp.products.push_back(std::move(pending));
}

void commit(Warp &warp, const Instruction &i) {
  if (requireWarpgroup(warp, i))
    ++warp.committedProducts;
}

void wait(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  Grid &grid = *block.grid;
  if (!requireWarpgroup(warp, i))
    return;
  uint64_t keep = uint64_t(warp.operand(i, 0).value);
  auto isDone = [&](const Warp::Product &product) {
    return product.group + keep < warp.committedProducts;
  };
  for (const Warp::Product &product : warp.products) {
    if (!isDone(product))
      continue;
    for (uint32_t at : product.shared)
      markChunk(block, at, Byte::Written);
    for (const auto &[slot, bad] : product.results) {
      if (std::memcmp(&warp.slots[slot], &fenced(warp, slot), sizeof(Slot)))
        return grid.report(warp, i, 0,
                           "an accumulator was written while the product of line " +
                               std::to_string(product.instruction->line) + " was in flight");
      warp.undefined[slot] = bad;
    }
  }
  std::erase_if(warp.products, isDone);
  // Others may still read the same memory, or add to the same accumulators.
  for (const auto &other : block.warps)
    for (const Warp::Product &product : other->products)
      for (uint32_t at : product.shared)
        markChunk(block, at, Byte::Lent);
  for (const Warp::Product &product : warp.products)
    for (const auto &[slot, bad] : product.results)
      warp.undefined[slot] = ~0u;
  grid.progress();
}

template <class T>
constexpr auto multiplyPair =
    [](auto a, auto b) -> Handler { return multiply<T, a.value, b.value>; };

Handler selectProduct(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.typeCount != 3 || code.m != 64 || code.n == 0 || code.n % 8 || code.n > kMostColumns ||
      code.k * bitsOf(code.types[1]) != kDepthBytes * 8 || i.groups < 4 || code.has(Mod::Satfinite))
    return nullptr;
  Type sum = code.types[0], a = code.types[1], b = code.types[2];
  bool fromRegisters = i.groupSize(1) == 4, whole = sum == Type::S32;
  auto operand = [&](unsigned group, unsigned element = 0) {
    return entry.operands[i.first + i.starts[group] + element];
  };
  if (operand(2).bits != 64 || (!fromRegisters && operand(1).bits != 64) ||
      i.groupSize(0) != code.n / 2)
    return nullptr;
  for (unsigned group : {0u, 1u})
    for (unsigned n = 0; n < i.groupSize(group); ++n)
      if (operand(group, n).kind != Operand::Register)
        return nullptr;
  if (whole) // columns: 8, 16, 24, 32, 48 and so on
    return i.groups == 4 && (code.n <= 32 || code.n % 16 == 0)
               ? selectPair<Type::S8, Type::U8>(a, b, multiplyPair<int32_t>)
               : nullptr;
  if (sum != Type::F32)
    return nullptr;
  if (bitsOf(a) == 8)
    return i.groups == 6 ? selectPair<Type::E4M3, Type::E5M2>(a, b, multiplyPair<float>) : nullptr;
  if (a != b || i.groups != (fromRegisters ? 7 : 8))
    return nullptr;
  return a == Type::F16    ? multiply<float, Type::F16, Type::F16>
         : a == Type::BF16 ? multiply<float, Type::BF16, Type::BF16>
                           : nullptr;
}

} // namespace

Handler selectWgmma(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.op != Op::Wgmma)
    return nullptr;
  if (code.has(Mod::Fence))
    return fence;
  if (code.has(Mod::CommitGroup))
    return commit;
  if (code.has(Mod::WaitGroup))
    return i.operands == 1 && entry.operands[i.first].kind == Operand::Immediate ? wait : nullptr;
  return code.has(Mod::MmaAsync) ? selectProduct(entry, i) : nullptr;
}

} // namespace moe::ptxsim
