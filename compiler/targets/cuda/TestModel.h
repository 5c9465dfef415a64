// The kernels that the compiler chooses for the steps of a published model.
#ifndef MOE_COMPILER_TARGETS_CUDA_TESTMODEL_H
#define MOE_COMPILER_TARGETS_CUDA_TESTMODEL_H

#include "compiler/kernels/Contract.h"
#include <map>
#include <vector>

namespace moe::codegen {

// A kernel of a step program, and into how many pieces its work falls.
struct ModelCall {
  ChosenKernel<CudaKernel> kernel;
  int64_t blocks;
};

// Different calls of the step programs, by their tokens: 1, 2, 4, .. `maxStep`. `config`: a folder
// of models/configs. `weights`: a recipe (passes/Recipe.h).
std::map<int64_t, std::vector<ModelCall>> modelCalls(const std::string &config,
                                                     const std::string &weights, int64_t maxStep);

} // namespace moe::codegen

#endif
