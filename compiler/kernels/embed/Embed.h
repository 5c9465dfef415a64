// The embedding of tokens: the first kernel of a step.
#ifndef MOE_COMPILER_KERNELS_EMBED_EMBED_H
#define MOE_COMPILER_KERNELS_EMBED_EMBED_H

#include "compiler/kernels/Contract.h"

namespace moe::codegen {

// h[t] = row tokens[t] of the embedding, as float32. On CPUs the padding becomes zero. With
// `images` a token whose image_rows[t] is not negative takes that row of the pictures' embeddings.
struct Embed {
  int64_t hidden;
  WeightFormat format;
  bool images = false;

  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const { return step.tokens; }
  void emit(CpuKernel &k) const;
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
