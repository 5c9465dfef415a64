// The kernels, one function for each KernelSpec; each is in a source file of its own.
#ifndef MOE_COMPILER_TARGETS_CPU_KERNELS_H
#define MOE_COMPILER_TARGETS_CPU_KERNELS_H

#include "compiler/targets/KernelSpec.h"
#include "compiler/targets/cpu/CpuTarget.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

namespace moe::codegen {

class CpuKernel;

#define MOE_KERNEL(Spec, emit) void emit(CpuKernel &k, const Spec &s);
#include "compiler/targets/cpu/Kernels.inc"
#undef MOE_KERNEL

// Builds the module of one kernel: one public function, named as the spec, with the attributes
// moe.scratch_fixed and moe.scratch_per_row (bytes), and the private functions that it calls.
mlir::OwningOpRef<mlir::ModuleOp> emitKernel(mlir::MLIRContext *context, const KernelSpec &spec,
                                             const CpuTarget &target);

} // namespace moe::codegen

#endif
