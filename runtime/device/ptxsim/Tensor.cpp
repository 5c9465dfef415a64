// ldmatrix, stmatrix and mma.sync. With g = lane / 4, t = lane % 4 and e elements in a register:
//   A register r: row g + 8 (r & 1), columns e t + 4 e (r >> 1) ...
//   B register r: column g, rows e t + 4 e r ...
//   C, D register r: row g + 8 (r >> 1), column 2 t + (r & 1)
// Products are exact and summed in float, in order: hardware sums in an order that it does not say.
#include "runtime/device/ptxsim/Access.h"
#include "runtime/device/ptxsim/Elements.h"
#include "runtime/device/ptxsim/Isa.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

namespace {

constexpr unsigned kRows = 16, kColumns = 8, kMostK = 32;

template <class T> struct Tile {
  alignas(64) T a[kRows][kMostK], b[kMostK][kColumns], c[kRows][kColumns];
  uint32_t badRows = 0, badColumns = 0; // hold undefined elements
  bool bad[kRows][kColumns] = {};       // of C
};

template <class T, Type typeA, Type typeB>
void gather(Warp &warp, const Instruction &i, Tile<T> &tile) {
  constexpr unsigned bits = bitsOf(typeA), e = 32 / bits;
  for (unsigned r = 0; r < i.groupSize(1); ++r) {
    const Operand &o = warp.operand(i, 1, r);
    const Word *words = warp.words(o.slot);
    uint32_t bad = warp.undefinedLanes(o);
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      unsigned row = lane / 4 + 8 * (r & 1), k = e * (lane % 4) + 4 * e * (r >> 1);
      for (unsigned j = 0; j < e; ++j)
        tile.a[row][k + j] = elementOf<T, typeA>(words[lane] >> j * bits % 32);
      tile.badRows |= (bad >> lane & 1) << row;
    }
  }
  for (unsigned r = 0; r < i.groupSize(2); ++r) {
    const Operand &o = warp.operand(i, 2, r);
    const Word *words = warp.words(o.slot);
    uint32_t bad = warp.undefinedLanes(o);
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      unsigned column = lane / 4, k = e * (lane % 4) + 4 * e * r;
      for (unsigned j = 0; j < e; ++j)
        tile.b[k + j][column] = elementOf<T, typeB>(words[lane] >> j * bits % 32);
      tile.badColumns |= (bad >> lane & 1) << column;
    }
  }
}

// Visits the elements of C or D that register R of a lane holds; f16 come in pairs.
template <class F> void eachOfC(unsigned registers, unsigned r, unsigned lane, F each) {
  unsigned g = lane / 4, t = lane % 4;
  if (registers == 4)
    return each(g + 8 * (r >> 1), 2 * t + (r & 1), 0);
  each(g + 8 * r, 2 * t, 0);
  each(g + 8 * r, 2 * t + 1, 16);
}

template <class T, Type typeA, Type typeB>
[[gnu::noinline]] void multiply(Warp &warp, const Instruction &i) {
  if (!warp.requireConverged(i))
    return;
  Tile<T> tile;
  gather<T, typeA, typeB>(warp, i, tile);
  unsigned registers = i.groupSize(0);
  for (unsigned r = 0; r < registers; ++r) {
    const Operand &o = warp.operand(i, 3, r);
    for (unsigned lane = 0; lane < kLanes; ++lane)
      eachOfC(registers, r, lane, [&](unsigned row, unsigned column, unsigned shift) {
        uint32_t bits = warp.words(o.slot)[lane] >> shift;
        if constexpr (std::is_same_v<T, float>)
          tile.c[row][column] =
              registers == 4 ? std::bit_cast<float>(bits) : Half{uint16_t(bits)}.value();
        else
          tile.c[row][column] = T(bits);
        tile.bad[row][column] = warp.undefinedLanes(o) >> lane & 1;
      });
  }
  bool saturates = i.opcode.has(Mod::Satfinite);
  for (unsigned row = 0; row < kRows; ++row) {
    if constexpr (std::is_same_v<T, float>) {
      std::array<float, kColumns> sums;
      std::copy_n(tile.c[row], kColumns, sums.begin());
      for (unsigned k = 0, end = i.opcode.k; k < end; ++k)
        for (unsigned column = 0; column < kColumns; ++column)
          sums[column] += tile.a[row][k] * tile.b[k][column];
      std::copy_n(sums.begin(), kColumns, tile.c[row]);
    } else {
      for (unsigned column = 0; column < kColumns; ++column) {
        int64_t sum = tile.c[row][column];
        for (unsigned k = 0; k < i.opcode.k; ++k)
          sum += int64_t(tile.a[row][k]) * tile.b[k][column];
        if (saturates)
          sum = std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX);
        tile.c[row][column] = T(sum);
      }
    }
  }
  for (unsigned r = 0; r < registers; ++r) {
    const Operand &o = warp.operand(i, 0, r);
    uint32_t bad = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      uint32_t bits = 0;
      eachOfC(registers, r, lane, [&](unsigned row, unsigned column, unsigned shift) {
        T value = tile.c[row][column];
        bits |= (registers == 2 ? Half::from(float(value)).bits : std::bit_cast<uint32_t>(value))
                << shift;
        bool undefined =
            tile.bad[row][column] || tile.badRows >> row & 1 || tile.badColumns >> column & 1;
        bad |= uint32_t(undefined) << lane;
      });
      if (warp.active >> lane & 1)
        warp.write(o, lane, bits);
    }
    warp.define(o, bad, i.line);
  }
}

// m16n8k8 and m16n8k16 of 16 bit floats, the ones that kernels are made of. A register of A holds a
// block of 8 by 8 in the order of its lanes, one of B such a block of the transpose.
template <class N, unsigned k>
MOE_PTXSIM_INLINE void multiplyHalves(Warp &warp, const Instruction &i) {
  uint32_t bad = 0;
  for (unsigned n = i.starts[1]; n < i.operands; ++n)
    bad |= warp.undefined[warp.operands[i.first + n].slot];
  if (bad || warp.active != ~0u || warp.alive != ~0u)
    return multiply<float, N::type, N::type>(warp, i);
  alignas(64) float a[kRows][k], b[k][kColumns], c[kRows][kColumns];
  for (unsigned r = 0; r < k / 4; ++r) {
    const Word *words = warp.words(warp.operand(i, 1, r).slot);
    float *to = &a[8 * (r & 1)][8 * (r >> 1)];
    for (unsigned g = 0; g < 8; ++g)
      for (unsigned q = 0; q < 4; ++q) {
        to[g * k + 2 * q] = N::low(words[4 * g + q]);
        to[g * k + 2 * q + 1] = N::high(words[4 * g + q]);
      }
  }
  for (unsigned r = 0; r < k / 8; ++r) {
    const Word *words = warp.words(warp.operand(i, 2, r).slot);
    for (unsigned q = 0; q < 4; ++q)
      for (unsigned g = 0; g < 8; ++g) {
        b[8 * r + 2 * q][g] = N::low(words[4 * g + q]);
        b[8 * r + 2 * q + 1][g] = N::high(words[4 * g + q]);
      }
  }
  for (unsigned r = 0; r < 4; ++r) {
    const Word *words = warp.words(warp.operand(i, 3, r).slot);
    for (unsigned lane = 0; lane < kLanes; ++lane)
      c[lane / 4 + 8 * (r >> 1)][2 * (lane % 4) + (r & 1)] =
          std::bit_cast<float>(uint32_t(words[lane]));
  }
  for (unsigned row = 0; row < kRows; ++row) {
    float sums[kColumns];
    for (unsigned column = 0; column < kColumns; ++column)
      sums[column] = c[row][column];
    for (unsigned j = 0; j < k; ++j)
      for (unsigned column = 0; column < kColumns; ++column)
        sums[column] += a[row][j] * b[j][column];
    for (unsigned column = 0; column < kColumns; ++column)
      c[row][column] = sums[column];
  }
  for (unsigned r = 0; r < 4; ++r) {
    const Operand &o = warp.operand(i, 0, r);
    if (o.kind != Operand::Register)
      continue;
    Word *words = warp.words(o.slot);
    for (unsigned lane = 0; lane < kLanes; ++lane)
      words[lane] = std::bit_cast<uint32_t>(c[lane / 4 + 8 * (r >> 1)][2 * (lane % 4) + (r & 1)]);
    warp.undefined[o.slot] = 0;
  }
}

struct Halves {
  static constexpr Type type = Type::F16;
  static float low(uint32_t word) { return Half{uint16_t(word)}.value(); }
  static float high(uint32_t word) { return Half{uint16_t(word >> 16)}.value(); }
};
struct Brains {
  static constexpr Type type = Type::BF16;
  static float low(uint32_t word) { return std::bit_cast<float>(word << 16); }
  static float high(uint32_t word) { return std::bit_cast<float>(word & 0xffff0000); }
};

template <class T>
constexpr auto multiplyPair =
    [](auto a, auto b) -> Handler { return multiply<T, a.value, b.value>; };

Handler selectMma(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (i.groups != 4 || code.typeCount != 4 || code.m != kRows || code.n != kColumns)
    return nullptr;
  unsigned bits = bitsOf(code.types[1]);
  bool small = bits == 8 || bits == 16 || code.types[1] == Type::TF32;
  if (!small || bitsOf(code.types[2]) != bits || !code.has(Mod::Row) || !code.has(Mod::Col))
    return nullptr;
  if (bits == 16 && code.types[1] != Type::F16 && code.types[1] != Type::BF16)
    return nullptr;
  unsigned elements = 32 / bits, b = i.groupSize(2);
  bool half = code.types[0] == Type::F16;
  if (b == 0 || 4 * elements * b != code.k || code.k > kMostK || i.groupSize(1) != 2 * b ||
      i.groupSize(0) != (half ? 2 : 4) || i.groupSize(3) != i.groupSize(0) ||
      code.types[0] != code.types[3])
    return nullptr;
  for (unsigned n = 0; n < i.operands; ++n)
    if (entry.operands[i.first + n].kind == Operand::Address)
      return nullptr;
  Type a = code.types[1], typeOfB = code.types[2];
  if (code.types[0] == Type::S32)
    return selectPair<Type::S8, Type::U8>(a, typeOfB, multiplyPair<int32_t>);
  if (!half && code.types[0] != Type::F32)
    return nullptr;
  if (bits == 8)
    return selectPair<Type::E4M3, Type::E5M2>(a, typeOfB, multiplyPair<float>);
  if (a != typeOfB)
    return nullptr;
  if (!half && bits == 16 && code.k == 16)
    return a == Type::F16 ? versions<&multiplyHalves<Halves, 16>>()
                          : versions<&multiplyHalves<Brains, 16>>();
  if (!half && bits == 16 && code.k == 8)
    return a == Type::F16 ? versions<&multiplyHalves<Halves, 8>>()
                          : versions<&multiplyHalves<Brains, 8>>();
  return a == Type::F16    ? multiply<float, Type::F16, Type::F16>
         : a == Type::BF16 ? multiply<float, Type::BF16, Type::BF16>
                           : multiply<float, Type::TF32, Type::TF32>;
}

// Notes that a lane wrote BYTES of shared memory.
void markLane(Warp &warp, unsigned lane, const Place &place, uint32_t bytes) {
  auto &entries = warp.block->laneWrites;
  if (place.space != Space::Shared || place.offset >> kRankShift || entries.empty())
    return;
  warp.wroteShared = true;
  std::fill_n(entries.begin() + ptrdiff_t(place.offset / 4), bytes / 4,
              warp.laneEpoch << 10 | uint32_t(warp.index) << 5 | lane);
}

// ldmatrix.sync.aligned.m8n8.x4{.trans}.shared.b16 {..}, [row]; and stmatrix. Lane 8 m + r names
// row r of matrix m; lane l holds elements 2 (l % 4) and the next of row l / 4.
void moveMatrices(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  bool stores = code.op == Op::Stmatrix, transposed = code.has(Mod::Trans);
  const Operand &address = warp.operand(i, stores ? 0 : 1);
  if (!warp.requireConverged(i))
    return;
  if (warp.active != ~0u)
    return warp.block->grid->report(warp, i, firstLane(warp.active), "the warp is not full");
  uint32_t lanes = code.count == 4 ? ~0u : (1u << 8 * code.count) - 1;
  Places rows; // reached first: results may take the registers of the addresses
  addressesOf(warp, address, rows.address);
  warp.active = lanes; // the other addresses are not used
  bool fine = warp.requireDefined(i, address, "the address") &&
              reachAll(warp, i, code.space(), rows, 16, stores ? Touch::Write : Touch::Read, false);
  for (unsigned lane = 8 * code.count; lane < kLanes; ++lane)
    rows.address[lane] = 0;
  // No other lane may have written the row that a lane names since they last met.
  fine = fine && (stores || lanesInOrder(warp, i, rows, 16, nullptr));
  warp.active = ~0u;
  if (!fine)
    return;
  for (unsigned m = 0; m < code.count; ++m) {
    const Operand &values = warp.operand(i, stores ? 1 : 0, m);
    if (stores && !warp.requireDefined(i, values, "the value"))
      return;
    uint32_t bad = 0;
    std::array<uint32_t, kLanes> fresh{};
    for (unsigned row = 0; row < 8; ++row) {
      unsigned lane = 8 * m + row;
      Place place{rows.data[lane], rows.shadow[lane], rows.space, rows.address[lane]};
      if (!stores && !transposed && rows.written) {
        for (unsigned pair = 0; pair < 4; ++pair)
          std::memcpy(&fresh[row * 4 + pair], place.data + 4 * pair, 4);
        continue;
      }
      for (unsigned column = 0; column < 8; ++column) {
        unsigned holder = transposed ? column * 4 + row / 2 : row * 4 + column / 2;
        unsigned shift = 16 * (transposed ? row & 1 : column & 1);
        if (stores) {
          uint16_t value = uint16_t(warp.read(values, holder) >> shift);
          std::memcpy(place.data + 2 * column, &value, 2);
          continue;
        }
        uint16_t value;
        std::memcpy(&value, place.data + 2 * column, 2);
        fresh[holder] |= uint32_t(value) << shift;
        if (!rows.written && place.shadow && !allWritten(place.shadow + 2 * column, 2))
          bad |= 1u << holder;
      }
      if (stores && place.shadow) {
        markBytes(place.shadow, 16, Byte::Written);
        markLane(warp, lane, place, 16);
      }
    }
    if (stores)
      continue;
    for (unsigned lane = 0; lane < kLanes; ++lane)
      warp.write(values, lane, fresh[lane]);
    warp.define(values, bad, i.line);
  }
  countAccess(warp, Space::Shared, rows.address.data(), lanes, 16, stores);
}

Handler selectMatrix(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  unsigned address = code.op == Op::Stmatrix ? 0 : 1;
  if (i.groups != 2 || code.type() != Type::B16 || i.groupSize(1 - address) != code.count ||
      code.count > 4 || code.m != 8 || code.n != 8 ||
      entry.operands[i.first + i.starts[address]].kind != Operand::Address)
    return nullptr;
  return moveMatrices;
}

} // namespace

Handler selectTensor(const Entry &entry, const Instruction &i) {
  switch (i.opcode.op) {
  case Op::Mma:
    return selectMma(entry, i);
  case Op::Ldmatrix:
  case Op::Stmatrix:
    return selectMatrix(entry, i);
  default:
    return nullptr;
  }
}

} // namespace moe::ptxsim
