// The table of GPUs.
#include "compiler/targets/cuda/CudaTarget.h"
#include "llvm/ADT/StringExtras.h"

namespace moe::codegen {

// The CUDA programming guide's table of compute capabilities: the shared memory of a multiprocessor
// less the KiB that each block reserves.
static const CudaTarget kTargets[] = {
    {"cuda:sm_100a", "sm_100a", "+ptx86", /*bulkCopies=*/true, /*wgmma=*/false, 227 * 1024},
    {"cuda:sm_90a", "sm_90a", "+ptx80", /*bulkCopies=*/true, /*wgmma=*/true, 227 * 1024},
    {"cuda:sm_80", "sm_80", "+ptx71", /*bulkCopies=*/false, /*wgmma=*/false, 163 * 1024},
};

llvm::ArrayRef<llvm::StringRef> cudaTargetNames() {
  static const llvm::StringRef names[] = {"sm_100a", "sm_90a", "sm_80"};
  return names;
}

llvm::Expected<CudaTarget> cudaTarget(llvm::StringRef name) {
  for (const CudaTarget &target : kTargets)
    if (name == target.chip)
      return target;
  return llvm::createStringError("unknown GPU '" + name + "': use one of " +
                                 llvm::join(cudaTargetNames(), ", "));
}

} // namespace moe::codegen
