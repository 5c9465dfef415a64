// From CUDA kernel modules to PTX, and to cubins where an assembler is at hand.
#ifndef MOE_COMPILER_TARGETS_CUDA_TOPTX_H
#define MOE_COMPILER_TARGETS_CUDA_TOPTX_H

#include "compiler/targets/cuda/CudaTarget.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/StringMap.h"
#include <optional>
#include <vector>

namespace moe::codegen {

// Lowers a module of CUDA kernels to the LLVM dialect, in place, and checks it for what LLVM or the
// hardware would silently get wrong (HazardCheck.h).
mlir::LogicalResult lowerCudaKernels(mlir::ModuleOp module);

// The module of lowerCudaKernels as optimised LLVM IR, or as PTX, in text.
llvm::Expected<std::string> toNvvmText(mlir::ModuleOp module, const CudaTarget &target);
llvm::Expected<std::string> toPtx(mlir::ModuleOp module, const CudaTarget &target);

// What the assembler says of a kernel.
struct Assembled {
  int64_t registers = 0, spillBytes = 0, sharedBytes = 0, barriers = 0;
};
struct Cubin {
  std::vector<char> bytes;
  llvm::StringMap<Assembled> kernels;
  std::string warnings; // such as C7510, "wgmma serialized"
};

// The path of `ptxas`: `given` if not empty (an error if it cannot run), $MOE_PTXAS, the PATH, or
// /usr/local/cuda/bin. Nothing if there is none.
llvm::Expected<std::optional<std::string>> findPtxas(llvm::StringRef given = "");

// Assembles PTX text. An error holds the assembler's own words.
llvm::Expected<Cubin> assemble(llvm::StringRef ptxas, llvm::StringRef ptx,
                               const CudaTarget &target);

} // namespace moe::codegen

#endif
