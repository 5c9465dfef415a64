// Random weights as plans store them, for the tests of kernels.
#ifndef MOE_COMPILER_KERNELS_TESTWEIGHT_H
#define MOE_COMPILER_KERNELS_TESTWEIGHT_H

#include "runtime/Status.h"
#include "runtime/weights/Layout.h"
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

namespace moe::codegen {

struct TestWeight {
  std::vector<std::byte> bytes;
  std::vector<float> values; // [matrices][rows][columns]
};

// Values are about as large as `size`. Every code is as likely as the others, where it is a number.
inline TestWeight testWeight(std::mt19937 &random, const WeightLayout &layout, float size) {
  TestWeight w;
  w.bytes.resize(layout.bytes());
  w.values.resize(layout.outer * layout.rows * layout.cols);
  const WeightFormat &format = layout.format;
  const StorageInfo &element = infoOf(format.element), &scaleInfo = infoOf(format.scale);
  std::normal_distribution<float> normal(0, size);
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  const int64_t group = format.quantized() ? format.group : layout.cols;
  float largest = 0;
  for (uint32_t code = 0; element.codes && code < 1u << element.bits; ++code)
    largest = std::fmax(largest, std::abs(element.decode(code, element.zero)));
  for (int64_t m = 0; m < layout.outer; ++m)
    for (int64_t row = 0; row < layout.rows; ++row)
      for (int64_t first = 0; first < layout.cols; first += group) {
        float *values = &w.values[(m * layout.rows + row) * layout.cols + first];
        if (!format.quantized()) {
          for (int64_t c = 0; c < group; ++c) {
            uint32_t bits = element.encode(normal(random), 0);
            values[c] = element.decode(bits, 0);
            std::memcpy(&w.bytes[layout.index(m, row, c) * element.bits / 8], &bits,
                        element.bits / 8);
          }
          continue;
        }
        uint32_t scaleBits = scaleInfo.encode(size * 2 / largest * uniform(random), 0);
        float scale = scaleInfo.decode(scaleBits, 0);
        std::memcpy(&w.bytes[layout.scale(m, row, first / group)], &scaleBits, scaleInfo.bits / 8);
        int64_t zero = element.zero;
        if (format.zeros) {
          zero = random() % (element.mostZero + 1);
          w.bytes[layout.zero(m, row, first / group)] = std::byte(zero);
        }
        for (int64_t c = 0; c < group; ++c) {
          uint32_t code = random() & ((1u << element.bits) - 1);
          if (std::isnan(element.decode(code, zero)))
            code ^= 1;
          values[c] = element.decode(code, zero) * scale;
          WeightLayout::CodePlace place = layout.code(m, row, first + c);
          w.bytes[place.byte] |= std::byte(code << place.shift);
        }
      }
  return w;
}

} // namespace moe::codegen

#endif
