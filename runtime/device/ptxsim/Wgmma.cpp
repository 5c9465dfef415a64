// wgmma: products of a warpgroup whose B, and perhaps A, are shared memory that a descriptor names.
// Each of the four warps computes its 16 rows by itself, at once; until a wait its accumulators
// count as undefined and the shared memory as lent. With g = lane / 4, q = lane % 4:
//   D register r: row g + 8 (r >> 1 & 1), column 8 (r >> 2) + 2 q + (r & 1)
//   A register r: as that of mma.m16n8k16
#include "runtime/device/ptxsim/Access.h"
#include "runtime/device/ptxsim/Isa.h"
#include "runtime/device/ptxsim/Numbers.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

namespace {

constexpr unsigned kRows = 16, kDepth = 16, kMostColumns = 256;

// A matrix in shared memory, of 16 bit elements, in the canonical layouts of the PTX manual.
struct Descriptor {
  uint32_t address, leading, stride; // bytes
  unsigned swizzle;                  // bytes of a row that is permuted, or 0
  bool transposed;                   // rows (of A, columns of B) follow each other, not k

  Descriptor(uint64_t bits, bool transposed)
      : address(uint32_t(bits & 0x3fff) << 4), leading(uint32_t(bits >> 16 & 0x3fff) << 4),
        stride(uint32_t(bits >> 32 & 0x3fff) << 4), swizzle(bits >> 62 ? 256u >> (bits >> 62) : 0),
        transposed(transposed) {}

  // Where the eight elements lie that begin at ROW and K: along k, or along rows if transposed.
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

// Reads ROWS by 16 elements to TO[row][k], and names the chunks. False after a report.
bool readShared(Warp &warp, const Instruction &i, const Descriptor &from, unsigned firstRow,
                unsigned rows, uint16_t *to, std::vector<uint32_t> &chunks) {
  Block &block = *warp.block;
  for (unsigned n = 0; n < rows * kDepth / 8; ++n) {
    unsigned row = from.transposed ? n / kDepth * 8 : n / 2;
    unsigned k = from.transposed ? n % kDepth : n % 2 * 8;
    uint32_t at = from.chunk(firstRow + row, k);
    Place place = reachRange(warp, i, 0, Space::Shared, at, 16, Touch::Read);
    if (!place.data || !checkProxy(warp, i, 0, at, 16, true))
      return false;
    if (block.grid->options.uninitialised && !allWritten(place.shadow, 16)) {
      block.grid->report(warp, i, 0, "multiplies shared " + hexText(at) + ", which nothing wrote");
      return false;
    }
    chunks.push_back(at);
    uint16_t values[8];
    std::memcpy(values, place.data, 16);
    for (unsigned e = 0; e < 8; ++e)
      to[(row + (from.transposed ? e : 0)) * kDepth + k + (from.transposed ? 0 : e)] = values[e];
  }
  return true;
}

struct Product {
  alignas(64) float a[kRows][kDepth], b[kDepth][kMostColumns], c[kRows][kMostColumns];
};

MOE_PTXSIM_INLINE void accumulate(Product *product, unsigned columns) {
  for (unsigned row = 0; row < kRows; ++row)
    for (unsigned first = 0; first < columns; first += 8) {
      float sums[8];
      for (unsigned n = 0; n < 8; ++n)
        sums[n] = product->c[row][first + n];
      for (unsigned k = 0; k < kDepth; ++k)
        for (unsigned n = 0; n < 8; ++n)
          sums[n] += product->a[row][k] * product->b[k][first + n];
      for (unsigned n = 0; n < 8; ++n)
        product->c[row][first + n] = sums[n];
    }
}

float valueOf(Type type, uint32_t bits) {
  return type == Type::F16 ? Half{uint16_t(bits)}.value() : Brain{uint16_t(bits)}.value();
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

void multiply(Warp &warp, const Instruction &i) {
  static const auto run = versions<&accumulate>();
  Grid &grid = *warp.block->grid;
  const Opcode &code = i.opcode;
  bool fromRegisters = i.groupSize(1) > 1;
  const Operand &scale = warp.operand(i, 3), &descriptor = warp.operand(i, 2);
  if (!requireWarpgroup(warp, i) || !warp.requireDefined(i, scale, "the scale of D") ||
      !warp.requireDefined(i, descriptor, "the descriptor") ||
      (!fromRegisters && !warp.requireDefined(i, warp.operand(i, 1), "the descriptor")))
    return;
  bool adds = scale.kind == Operand::Predicate ? warp.readPredicate(scale, 0) : scale.value != 0;
  auto flag = [&](unsigned group) { return warp.operand(i, group).value; };
  unsigned columns = code.n, results = i.groupSize(0);
  if (warp.fencedRegisters.empty())
    return grid.report(warp, i, 0, "no wgmma.fence was executed before");
  auto unchanged = [&](const Operand &o) {
    return !std::memcmp(&warp.slots[o.slot], &fenced(warp, o.slot), sizeof(Slot));
  };
  auto pendingBad = [&](uint16_t slot, bool &pending) {
    for (auto product = warp.products.rbegin(); product != warp.products.rend(); ++product)
      for (const auto &[result, bad] : product->results)
        if (result == slot) {
          pending = true;
          return bad;
        }
    return warp.undefined[slot];
  };
  Warp::Product pending{warp.committedProducts, &i, {}, {}};
  Product product;
  uint32_t badInputs = 0;
  float sign = float(flag(4) * flag(5));
  if (fromRegisters) {
    for (unsigned r = 0; r < 4; ++r) {
      const Operand &o = warp.operand(i, 1, r);
      if (!unchanged(o))
        return grid.report(warp, i, 0, "a register of A was written after the last wgmma.fence");
      badInputs |= warp.undefined[o.slot];
      for (unsigned lane = 0; lane < kLanes; ++lane)
        for (unsigned e = 0; e < 2; ++e)
          product.a[lane / 4 + 8 * (r & 1)][2 * (lane % 4) + 8 * (r >> 1) + e] =
              sign * valueOf(code.types[1], warp.words(o.slot)[lane] >> 16 * e & 0xffff);
    }
  } else {
    Descriptor a(warp.longs(warp.operand(i, 1).slot)[0], flag(6) != 0);
    uint16_t values[kRows * kDepth];
    if (!readShared(warp, i, a, warp.index % 4 * kRows, kRows, values, pending.shared))
      return;
    for (unsigned row = 0; row < kRows; ++row)
      for (unsigned k = 0; k < kDepth; ++k)
        product.a[row][k] = sign * valueOf(code.types[1], values[row * kDepth + k]);
  }
  Descriptor b(warp.longs(descriptor.slot)[0], flag(i.groups - 1u) != 0);
  uint16_t values[kMostColumns * kDepth];
  if (!readShared(warp, i, b, 0, columns, values, pending.shared))
    return;
  for (unsigned column = 0; column < columns; ++column)
    for (unsigned k = 0; k < kDepth; ++k)
      product.b[k][column] = valueOf(code.types[2], values[column * kDepth + k]);
  for (unsigned r = 0; r < results; ++r) {
    const Operand &o = warp.operand(i, 0, r);
    bool inFlight = false;
    uint32_t bad = pendingBad(o.slot, inFlight);
    if ((adds || inFlight) && !unchanged(o))
      return grid.report(
          warp, i, 0,
          "an accumulator was written after the last wgmma.fence, or while a product "
          "was in flight");
    pending.results.push_back({o.slot, (adds ? bad : 0) | (badInputs ? ~0u : 0)});
    for (unsigned lane = 0; lane < kLanes; ++lane)
      product.c[lane / 4 + 8 * (r >> 1 & 1)][8 * (r >> 2) + 2 * (lane % 4) + (r & 1)] =
          adds ? std::bit_cast<float>(uint32_t(warp.words(o.slot)[lane])) : 0.0f;
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
    markBytes(warp.block->shadow.data() + at, 16, Byte::Lent);
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
      markBytes(block.shadow.data() + at, 16, Byte::Written);
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
        markBytes(block.shadow.data() + at, 16, Byte::Lent);
  for (const Warp::Product &product : warp.products)
    for (const auto &[slot, bad] : product.results)
      warp.undefined[slot] = ~0u;
  grid.progress();
}

bool isSixteen(Type type) { return type == Type::F16 || type == Type::BF16; }

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
  if (!code.has(Mod::MmaAsync) || code.typeCount != 3 || code.types[0] != Type::F32 ||
      !isSixteen(code.types[1]) || code.types[1] != code.types[2] || code.m != 64 ||
      code.k != kDepth || code.n == 0 || code.n % 8 || code.n > kMostColumns || i.groups < 7)
    return nullptr;
  bool fromRegisters = i.groupSize(1) == 4;
  auto kindOf = [&](unsigned group, unsigned element = 0) {
    return entry.operands[i.first + i.starts[group] + element];
  };
  bool descriptors = kindOf(2).bits == 64 && (fromRegisters || kindOf(1).bits == 64);
  if (!descriptors || i.groupSize(0) != code.n / 2 || i.groups != (fromRegisters ? 7 : 8))
    return nullptr;
  for (unsigned group : {0u, 1u})
    for (unsigned n = 0; n < i.groupSize(group); ++n)
      if (kindOf(group, n).kind != Operand::Register)
        return nullptr;
  return multiply;
}

} // namespace moe::ptxsim
