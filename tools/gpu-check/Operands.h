// Operands of the cases, with their numbers at hand: what a kernel should make of them is computed
// from here.
#ifndef MOE_TOOLS_GPU_CHECK_OPERANDS_H
#define MOE_TOOLS_GPU_CHECK_OPERANDS_H

#include "runtime/weights/Layout.h"
#include "tools/gpu-check/BundleWriter.h"
#include <random>

namespace moe::gpucheck {

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;

fb::OperandT undefinedOperand(double bytes);
fb::OperandT zeros(double bytes);

template <class T> fb::OperandT stored(BundleWriter &writer, const std::vector<T> &values) {
  fb::OperandT operand;
  operand.bytes = values.size() * sizeof(T);
  operand.fill = fb::Fill::Stored;
  operand.blob =
      writer.blob({reinterpret_cast<const uint8_t *>(values.data()), size_t(operand.bytes)});
  return operand;
}

// An operand of floats that follow a pattern.
class Numbers {
public:
  Numbers() = default;
  // `deviation`: of the numbers, which are evenly spread around 0.
  Numbers(fb::Element element, uint32_t seed, float deviation, double count);

  float operator[](uint64_t i) const;
  Floats range(uint64_t first, uint64_t count) const;

  fb::OperandT operand;

private:
  const float *period = nullptr; // shared by all that have this pattern
};

// Matrices as a plan stores them: bf16 that follows a pattern, or stored codes.
class Weight {
public:
  Weight(BundleWriter &writer, const WeightFormat &format, int64_t matrices, int64_t rows,
         int64_t columns, WeightLayout::Kind kind, uint32_t seed);

  Floats row(int64_t matrix, int64_t row) const;
  double bytes() const { return double(layout.bytes()); }

  fb::OperandT operand;

private:
  void makeCodes(BundleWriter &writer, uint32_t seed);

  WeightLayout layout;
  Numbers numbers; // of bf16
  Floats decoded;  // of codes: [matrices][rows][columns]
};

} // namespace moe::gpucheck

#endif
