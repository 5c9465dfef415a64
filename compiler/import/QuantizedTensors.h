// A quantized checkpoint as the tensors that it stands for: codes, scales and zeros of the
// libraries that quantize become `X.weight`, whose elements are decoded as they are read, bit for
// bit those that float32 arithmetic of the library gives, and whose encoding says what they are
// decoded from.
//
//   library             tensors of a linear X, [out, in] (CodedTensor.h: how codes lie in words)
//   compressed-tensors  X.weight F8_E4M3 or I8, X.weight_scale, X.weight_zero_point;
//                       X.weight_packed, X.weight_scale, X.weight_shape, X.weight_zero_point,
//                       X.weight_g_idx
//   fp8                 X.weight F8_E4M3, X.weight_scale_inv [out / 128, in / 128]
//   fbgemm_fp8          X.weight F8_E4M3, X.weight_scale; experts.gate_up_proj [E, in, out] and
//                       experts.gate_up_proj_scale [E, 1, out], down_proj_scale [E, out, 1]
//   ModelOpt FP8        X.weight F8_E4M3, X.weight_scale; experts.gate_up_proj [E, in, out] and
//                       experts.gate_up_proj_weight_scale, one number
//   AWQ, GPTQ           X.qweight, X.qzeros, X.scales, X.g_idx
//
// Which tensors are quantized is seen from them, one by one. All others are as they were.
#ifndef MOE_COMPILER_IMPORT_QUANTIZEDTENSORS_H
#define MOE_COMPILER_IMPORT_QUANTIZEDTENSORS_H

#include "compiler/import/CodedTensor.h"
#include "compiler/import/QuantizationConfig.h"

#include "llvm/ADT/DenseMap.h"

#include <memory>

namespace moe {

class QuantizedTensors final : public TensorSource {
public:
  // `stored` must point to the data of all of its tensors. Decoded tensors get the type `dtype`,
  // though their elements are not rounded to it. Fails where scales are missing, or a tensor is not
  // of the type and shape that the others and `config` ask for. What the scales are is checked as
  // they are read.
  static llvm::Expected<std::unique_ptr<TensorSource>>
  open(std::unique_ptr<TensorSource> stored, const QuantizationConfig &config, Storage dtype);

  const std::byte *data(const TensorInfo &tensor) const override;

private:
  friend class Decoding;
  enum class Part { Elements, Scales, Zeros };
  struct Place {
    size_t tensor; // of coded
    Part part;
  };

  Status readElements(const TensorInfo &tensor, uint64_t begin,
                      std::span<float> out) const override;

  std::unique_ptr<TensorSource> stored;
  std::vector<CodedTensor> coded;
  llvm::StringMap<Place> places; // of what is decoded
};

} // namespace moe

#endif
