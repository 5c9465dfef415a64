// What the tests of heads and of sampling share.
#ifndef MOE_COMPILER_TARGETS_CUDA_TESTSAMPLING_H
#define MOE_COMPILER_TARGETS_CUDA_TESTSAMPLING_H

#include "compiler/targets/cuda/TestPtx.h"
#include "runtime/device/RowSampling.h"
#include <limits>
#include <map>
#include <span>

namespace moe::codegen {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr uint32_t kWritesLogits = cuda::RowSampling::writesLogits,
                          kDraws = cuda::RowSampling::draws;

// Compiles each kernel once.
template <class Contract> const PtxKernel &compiled(const Contract &contract, const char *chip) {
  static std::map<std::string, PtxKernel> kernels;
  std::string key = contract.name() + "_" + chip;
  auto found = kernels.find(key);
  if (found == kernels.end())
    found = kernels.emplace(key, PtxKernel(contract, chip)).first;
  return found->second;
}

// The id of the largest logit, the lowest of several, or what is told in its place (RowSampling.h).
inline int32_t largest(std::span<const float> logits) {
  for (size_t i = 0; i < logits.size(); ++i)
    if (!(logits[i] < kInf))
      return badLogitId(int32_t(i));
  auto best = std::max_element(logits.begin(), logits.end());
  return *best == -kInf ? kNothingToChoose : int32_t(best - logits.begin());
}

} // namespace moe::codegen

#endif
