// The table of GPUs.
#include "compiler/codegen/cuda/CudaTarget.h"
#include "llvm/ADT/StringExtras.h"

namespace moe::codegen {

static const CudaTarget kTargets[] = {
    {"cuda:sm_100a", "sm_100a", "+ptx86", /*bulkCopies=*/true, /*wgmma=*/false},
    {"cuda:sm_90a", "sm_90a", "+ptx80", /*bulkCopies=*/true, /*wgmma=*/true},
    {"cuda:sm_80", "sm_80", "+ptx71", /*bulkCopies=*/false, /*wgmma=*/false},
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
