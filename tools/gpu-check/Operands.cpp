// Patterns and codes, as the runner will have them.
#include "tools/gpu-check/Operands.h"
#include "runtime/Status.h"
#include "tools/gpu-check/Pattern.h"
#include <cmath>

namespace moe::gpucheck {

fb::OperandT undefinedOperand(double bytes) {
  fb::OperandT operand;
  operand.bytes = uint64_t(bytes);
  return operand;
}

fb::OperandT zeros(double bytes) {
  fb::OperandT operand = undefinedOperand(bytes);
  operand.fill = fb::Fill::Zero;
  return operand;
}

Numbers::Numbers(fb::Element element, uint32_t seed, float deviation, double count) {
  const float scale = deviation * std::sqrt(3.0f);
  operand.bytes = uint64_t(count) * bytesOf(element);
  operand.fill = fb::Fill::Pattern;
  operand.element = element;
  operand.seed = seed;
  operand.scale = scale;
  static std::map<std::tuple<fb::Element, uint32_t, float>, Floats> periods;
  Floats &values = periods[{element, seed, scale}];
  for (uint64_t i = values.size(); i < kPatternPeriod; ++i)
    values.push_back(patternValue(element, seed, scale, i));
  period = values.data();
}

float Numbers::operator[](uint64_t i) const { return period[i % kPatternPeriod]; }

Floats Numbers::range(uint64_t first, uint64_t count) const {
  Floats values(count);
  for (uint64_t i = 0; i < count; ++i)
    values[i] = (*this)[first + i];
  return values;
}

// A row times numbers of deviation 1 is about 1.
Weight::Weight(BundleWriter &writer, const WeightFormat &format, int64_t matrices, int64_t rows,
               int64_t columns, WeightLayout::Kind kind, uint32_t seed)
    : layout(*WeightLayout::create(std::array{matrices, rows, columns}, format, kind)) {
  if (format.quantized()) {
    makeCodes(writer, seed);
  } else {
    numbers =
        Numbers(fb::Element::BF16, seed, 1 / std::sqrt(float(columns)), double(layout.bytes()) / 2);
    operand = numbers.operand;
  }
}

// Random codes with scales in float16, which are those of int4 and int8 without zeros.
void Weight::makeCodes(BundleWriter &writer, uint32_t seed) {
  const WeightFormat &format = layout.format;
  assert(format.scale == Storage::F16 && !format.zeros && infoOf(format.element).integers);
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(layout.bytes());
  const StorageInfo &scales = infoOf(format.scale), &codes = infoOf(format.element);
  const uint32_t mask = (1u << codes.bits) - 1;
  const float unit = 1 / (std::sqrt(float(layout.cols)) * 0.29f * float(mask));
  for (int64_t m = 0; m < layout.outer; ++m)
    for (int64_t row = 0; row < layout.rows; ++row)
      for (int64_t group = 0; group < layout.groups(); ++group) {
        const uint32_t bits = scales.encode(unit * (0.75f + float(random() % 512) / 1024), 0);
        const float scale = scales.decode(bits, 0);
        std::memcpy(&bytes[layout.scale(m, row, group)], &bits, 2);
        for (int64_t c = group * format.group; c < (group + 1) * format.group; ++c) {
          const uint32_t code = random() & mask;
          const auto [byte, shift] = layout.code(m, row, c);
          bytes[byte] |= uint8_t(code << shift);
          decoded.push_back(codes.decode(code, codes.zero) * scale);
        }
      }
  operand = stored(writer, bytes);
}

Floats Weight::row(int64_t matrix, int64_t row) const {
  Floats values(layout.cols);
  for (int64_t c = 0; c < layout.cols; ++c)
    values[c] = layout.format.quantized() ? decoded[(matrix * layout.rows + row) * layout.cols + c]
                                          : numbers[layout.index(matrix, row, c)];
  return values;
}

} // namespace moe::gpucheck
