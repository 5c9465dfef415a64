// From kernel modules to machine code that a plan can hold and a runtime can map: no relocations,
// no calls to the outside, constants beside the code.
#ifndef MOE_COMPILER_TARGETS_CPU_TOOBJECT_H
#define MOE_COMPILER_TARGETS_CPU_TOOBJECT_H

#include "compiler/targets/cpu/CpuTarget.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/StringMap.h"
#include <vector>

namespace moe::codegen {

struct CpuImage {
  CpuTarget target;
  std::vector<char> code;            // mapped at any page, executable
  llvm::StringMap<uint64_t> entries; // of each kernel, in bytes from the start of the code
};

// Lowers a module of kernels to the LLVM dialect, in place.
mlir::LogicalResult lowerKernels(mlir::ModuleOp module);

// The module of lowerKernels as optimised LLVM IR, or as assembly, in text.
llvm::Expected<std::string> toLlvmText(mlir::ModuleOp module, const CpuTarget &target);
llvm::Expected<std::string> toAssembly(mlir::ModuleOp module, const CpuTarget &target);

// The module of lowerKernels as an image. Not for use from two threads at once.
llvm::Expected<CpuImage> toImage(mlir::ModuleOp module, const CpuTarget &target);

} // namespace moe::codegen

#endif
