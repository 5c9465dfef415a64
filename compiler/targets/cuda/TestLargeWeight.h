// Weights of any size, for tests at the shapes of published models.
#ifndef MOE_COMPILER_TARGETS_CUDA_TESTLARGEWEIGHT_H
#define MOE_COMPILER_TARGETS_CUDA_TESTLARGEWEIGHT_H

#include "compiler/targets/cuda/TestPtx.h"

namespace moe::codegen {

// Elements are a function of their place, so that none is kept, and only the strips that a kernel
// reads are ever packed. A row times normally distributed numbers is about 1; rows of an embedding
// (Kind::Rows) are about 1 themselves. Formats: bf16, and int4 and int8 with scales of f16.
class LargeWeight {
public:
  LargeWeight(const WeightFormat &format, int64_t matrices, int64_t rows, int64_t columns,
              WeightLayout::Kind kind, uint64_t seed)
      : format(format), rows(rows), columns(columns), seed(seed),
        size(kind == WeightLayout::Kind::Rows ? 1 : 1 / std::sqrt(float(columns))) {
    EXPECT_TRUE(format == kBf16 || (format.scale == Storage::F16 && !format.zeros &&
                                    format.element != Storage::F8E4M3));
    const int64_t shape[] = {matrices, rows, columns};
    geometry = *WeightLayout::create(shape, format, kind);
    const bool strips = geometry.fragments();
    unitRows = strips ? geometry.panelRows() : 1;
    unitBytes = strips ? geometry.panelBytes() : geometry.rowBytes();
    rowAt.assign(strips ? geometry.panels * unitRows : rows, -1);
    for (int64_t row = 0; row < rows; ++row)
      rowAt[strips ? geometry.packedRow(row) : row] = row;
    // All strips are laid out as the first one.
    for (int64_t place = 0; place < unitRows; ++place)
      for (int64_t c = 0; c < columns && rowAt[place] >= 0; ++c)
        places.push_back(format.quantized()
                             ? geometry.code(0, rowAt[place], c)
                             : WeightLayout::CodePlace{geometry.index(0, rowAt[place], c) * 2, 0});
  }

  uint64_t bytes() const { return geometry.bytes(); }

  // The values of a row as the plan stores them.
  Floats row(int64_t matrix, int64_t row) const {
    Floats values(columns);
    generate(
        matrix, row, [&](int64_t c, uint16_t, float value) { values[c] = value; },
        [](int64_t, _Float16) {});
    return values;
  }

  // Must not outlive the weight.
  ptxsim::Source source() const {
    return {uint64_t(unitBytes), [this](uint64_t offset, std::span<std::byte> strip) {
              const int64_t perMatrix = int64_t(rowAt.size()) / unitRows;
              const int64_t unit = int64_t(offset) / unitBytes;
              for (int64_t place = 0; place < unitRows; ++place)
                pack(unit / perMatrix, rowAt[unit % perMatrix * unitRows + place], place, strip);
            }};
  }

private:
  void pack(int64_t matrix, int64_t row, int64_t place, std::span<std::byte> strip) const {
    if (row < 0)
      return;
    const WeightLayout::CodePlace *at = &places[place * columns];
    generate(
        matrix, row,
        [&](int64_t c, uint16_t bits, float) {
          if (format.quantized())
            strip[at[c].byte] |= std::byte(bits << at[c].shift);
          else
            std::memcpy(&strip[at[c].byte], &bits, 2);
        },
        [&](int64_t group, _Float16 scale) {
          std::memcpy(&strip[geometry.scale(0, rowAt[place], group)], &scale, 2);
        });
  }

  // Calls element(column, code or bits, value) for each, and scale(group, scale) before a group's.
  template <class Element, class Scale>
  void generate(int64_t matrix, int64_t row, Element element, Scale scale) const {
    // splitmix64, begun anew for each row.
    auto mixed = [](uint64_t z) {
      z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
      z = (z ^ z >> 27) * 0x94D049BB133111EB;
      return z ^ z >> 31;
    };
    uint64_t state = mixed(mixed(seed + 1) + uint64_t(matrix * rows + row) + 1);
    auto next = [&] { return mixed(state += 0x9E3779B97F4A7C15); };
    const bool small = format.element == Storage::I4;
    const float step = size * 1.7320508f / 32768, unit = size / (small ? 4.6f : 74);
    const int64_t group = format.quantized() ? format.group : columns;
    for (int64_t first = 0; first < columns; first += group) {
      _Float16 factor = _Float16(unit * (0.75f + float(next() >> 40) / (1 << 25)));
      if (format.quantized())
        scale(first / group, factor);
      uint64_t draw = 0;
      for (int64_t c = first; c < first + group; ++c) {
        draw = (c - first) % 4 ? draw >> 16 : next();
        if (!format.quantized()) {
          uint16_t bits = toBf16(float(int16_t(draw)) * step);
          element(c, bits, fromBf16(bits));
          continue;
        }
        uint16_t code = draw & (small ? 15 : 255);
        element(c, code, float(int64_t(code) - format.zero()) * float(factor));
      }
    }
  }

  WeightFormat format;
  int64_t rows, columns;
  uint64_t seed;
  float size;
  WeightLayout geometry;
  int64_t unitRows, unitBytes;                 // of a strip, or of a row
  std::vector<int32_t> rowAt;                  // of a matrix, by its place; -1: none
  std::vector<WeightLayout::CodePlace> places; // in a strip: [unitRows][columns]
};

} // namespace moe::codegen

#endif
