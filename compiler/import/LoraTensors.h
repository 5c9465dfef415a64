// A checkpoint with a LoRA adapter of PEFT merged into it: rows become W + scaling * B * A as they
// are read, in float32, and are rounded where they are packed.
//
//   scaling = alpha / r, or alpha / sqrt(r) with use_rslora
//   X.lora_A.weight [r, in], X.lora_B.weight [out, r]     of a linear X.weight [out, in], or of an
//                                                         expert's part of fused ones, transposed
//   X.lora_embedding_A [r, rows], X.lora_embedding_B [width, r]        of an embedding [rows,
//   width] X.lora_A.weight [r * E, a], X.lora_B.weight [b, r * E] with target_parameters: of fused
//   experts
//     [E, in, out], B's columns with the expert fastest; a is in and b out, or the other way around
#ifndef MOE_COMPILER_IMPORT_LORATENSORS_H
#define MOE_COMPILER_IMPORT_LORATENSORS_H

#include "runtime/weights/TensorSource.h"

#include <memory>

namespace moe {

class LoraTensors final : public TensorSource {
public:
  // `folder` has adapter_config.json and adapter_model.safetensors, whose matrices are held in
  // memory as float32. Merged tensors have no encoding. What is left out with a reason, as adapters
  // of a vision tower that the base has not, is appended to `notes`. Fails where an adapter needs
  // more than this (DoRA, biases, modules_to_save), or where one of its tensors does not fit a
  // tensor of `base`.
  static llvm::Expected<std::unique_ptr<TensorSource>>
  open(std::unique_ptr<TensorSource> base, llvm::StringRef folder, std::vector<std::string> &notes);

  const std::byte *data(const TensorInfo &tensor) const override;

private:
  friend class LoraReader;

  // A matrix inside of a stored one: element (i, j) is values[begin + i * rowStride + j *
  // colStride].
  struct Factor {
    const float *values = nullptr;
    int64_t begin = 0, rowStride = 0, colStride = 0;
  };
  // What is added to a box of a tensor that is seen as a matrix of rows of its last dimension:
  // scaling * left [rows, rank] * right [rank, cols].
  struct Delta {
    int64_t row = 0, rows = 0, col = 0, cols = 0, rank = 0;
    float scaling = 0;
    Factor left, right;
  };

  Status readElements(const TensorInfo &tensor, uint64_t begin,
                      std::span<float> out) const override;

  std::unique_ptr<TensorSource> base;
  llvm::StringMap<std::vector<Delta>> deltas;
  std::vector<std::unique_ptr<std::vector<float>>> matrices;
};

} // namespace moe

#endif
