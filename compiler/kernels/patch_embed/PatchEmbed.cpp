// The name and the buffers of what enters a tower.
#include "compiler/kernels/patch_embed/PatchEmbed.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string CpuPatchEmbed::name() const {
  llvm::SmallVector<float> constants{pixels.rescale, eps};
  constants.append(pixels.mean.begin(), pixels.mean.end());
  constants.append(pixels.std.begin(), pixels.std.end());
  return identifier(llvm::formatv("patch_embed_{0}_{1}_grid{2}_patch{3}_{4}", nameOf(format),
                                  hidden, grid, patch, digest(constants)));
}

int64_t CpuPatchEmbed::bytes(Operand operand, Step step) const {
  if (operand == Operand::Counters)
    return kClaimCounterBytes;
  assert(operand == Operand::H);
  return step.tokens * rows() * padded(hidden) * 4;
}

} // namespace moe::codegen
