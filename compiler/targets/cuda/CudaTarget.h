// The GPUs that CUDA kernels are compiled for.
#ifndef MOE_COMPILER_TARGETS_CUDA_CUDATARGET_H
#define MOE_COMPILER_TARGETS_CUDA_CUDATARGET_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>

namespace moe::codegen {

struct CudaTarget {
  std::string name; // in the plan: "cuda:sm_90a"
  std::string chip; // LLVM's and ptxas' name: "sm_90a"
  std::string ptx;  // the lowest PTX version that has what the kernels use: "+ptx80"
  bool bulkCopies;  // cp.async.bulk, mbarrier.try_wait; and dependent launch (griddepcontrol)
  bool wgmma;
  int64_t sharedBytes; // of dynamic shared memory that a block may have
};

// "sm_80", "sm_90a" or "sm_100a". An unknown name is an error that lists these.
llvm::Expected<CudaTarget> cudaTarget(llvm::StringRef name);

// All of them, best first.
llvm::ArrayRef<llvm::StringRef> cudaTargetNames();

} // namespace moe::codegen

#endif
