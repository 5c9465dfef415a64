// The CUDA kernels, one function for each kind; each is in a source file of its own.
#ifndef MOE_COMPILER_TARGETS_CUDA_CUDAKERNELS_H
#define MOE_COMPILER_TARGETS_CUDA_CUDAKERNELS_H

#include "compiler/targets/cuda/CudaSpec.h"
#include "compiler/targets/cuda/CudaTarget.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

namespace moe::codegen {

class CudaKernel;

// Those for all steps and for small ones; the kernels of attention; those of larger steps.
void emitEmbed(CudaKernel &k, const CudaSpec &spec);
void emitRopeTable(CudaKernel &k, const CudaSpec &spec);
void emitSmallQkv(CudaKernel &k, const CudaSpec &spec);
void emitSmallResidual(CudaKernel &k, const CudaSpec &spec);
void emitSmallDown(CudaKernel &k, const CudaSpec &spec);
void emitSmallHead(CudaKernel &k, const CudaSpec &spec);
void emitSmallLinear(CudaKernel &k, const CudaSpec &spec); // one of these four
void emitSmallGateUp(CudaKernel &k, const CudaSpec &spec);
void emitFusedAttention(CudaKernel &k, const CudaSpec &spec);
void emitFinish(CudaKernel &k, const CudaSpec &spec);
void emitTiledAttention(CudaKernel &k, const CudaSpec &spec);
void emitNorm(CudaKernel &k, const CudaSpec &spec);
void emitRouter(CudaKernel &k, const CudaSpec &spec);
void emitTiledProjection(CudaKernel &k, const CudaSpec &spec);
void emitTiledResidual(CudaKernel &k, const CudaSpec &spec);
void emitTiledGateUp(CudaKernel &k, const CudaSpec &spec);
void emitTiledDown(CudaKernel &k, const CudaSpec &spec);
void emitTiledHead(CudaKernel &k, const CudaSpec &spec);
void emitTiledLinear(CudaKernel &k, const CudaSpec &spec); // one of these five
void emitSample(CudaKernel &k, const CudaSpec &spec);

// Builds the body of a kernel, whatever it is.
void emitCudaKernel(CudaKernel &k, const CudaSpec &spec);

// Builds the module of one kernel: one llvm.func, named as the spec, with the attributes
// moe.threads, moe.shared_bytes, moe.blocks_per_sm (integers) and, where it waits for the kernel
// before it, moe.dependent. The spec must be supported. Null, with an error told to the context,
// where the kernel needs more shared memory than a block of the target has.
mlir::OwningOpRef<mlir::ModuleOp> emitCudaKernel(mlir::MLIRContext *context, const CudaSpec &spec,
                                                 const CudaTarget &target);

} // namespace moe::codegen

#endif
