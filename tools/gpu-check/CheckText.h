// A plan beside what a CPU made of the same text.
#ifndef MOE_TOOLS_GPU_CHECK_CHECKTEXT_H
#define MOE_TOOLS_GPU_CHECK_CHECKTEXT_H

#include "tools/gpu-check/Bundle.h"

namespace moe::gpucheck {

struct CheckedText {
  int64_t tokens = 0, rightTokens = 0; // of rows whose best two are not nearly tied
  double divergence = 0; // mean over all rows, of the GPU's distribution from the CPU's

  bool right() const;
};

// Runs the plan at `path` on a device: the prompt in one step, then token by token.
Result<CheckedText> checkText(const std::string &path, const std::string &device,
                              const fb::Text &text);

} // namespace moe::gpucheck

#endif
