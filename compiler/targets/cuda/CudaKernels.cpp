// Which function emits which kernel.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/CudaKernel.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir;

namespace moe::codegen {

namespace {
template <class... Cases> struct Overloaded : Cases... {
  using Cases::operator()...;
};
} // namespace

void emitSmallLinear(CudaKernel &k, const CudaSpec &spec) {
  if (std::holds_alternative<CudaQkvSpec>(spec.op))
    emitSmallQkv(k, spec);
  else if (std::holds_alternative<LinearResidualSpec>(spec.op))
    emitSmallResidual(k, spec);
  else if (std::holds_alternative<DownSpec>(spec.op))
    emitSmallDown(k, spec);
  else
    emitSmallHead(k, spec);
}

void emitTiledLinear(CudaKernel &k, const CudaSpec &spec) {
  if (std::holds_alternative<LinearSpec>(spec.op))
    emitTiledProjection(k, spec);
  else if (std::holds_alternative<LinearResidualSpec>(spec.op))
    emitTiledResidual(k, spec);
  else if (std::holds_alternative<GateUpSpec>(spec.op))
    emitTiledGateUp(k, spec);
  else if (std::holds_alternative<DownSpec>(spec.op))
    emitTiledDown(k, spec);
  else
    emitTiledHead(k, spec);
}

void emitCudaKernel(CudaKernel &k, const CudaSpec &spec) {
  auto linear = [&](const auto &) {
    spec.small() ? emitSmallLinear(k, spec) : emitTiledLinear(k, spec);
  };
  std::visit(Overloaded{
                 [&](const EmbedSpec &) { emitEmbed(k, spec); },
                 [&](const RopeTableSpec &) { emitRopeTable(k, spec); },
                 [&](const CudaQkvSpec &) { emitSmallLinear(k, spec); },
                 [&](const HeadSpec &s) { linear(s); },
                 [&](const LinearSpec &) { emitTiledLinear(k, spec); },
                 [&](const LinearResidualSpec &s) { linear(s); },
                 [&](const DownSpec &s) { linear(s); },
                 [&](const GateUpSpec &) {
                   spec.small() ? emitSmallGateUp(k, spec) : emitTiledLinear(k, spec);
                 },
                 [&](const CudaAttentionSpec &) {
                   spec.small() ? emitFusedAttention(k, spec) : emitTiledAttention(k, spec);
                 },
                 [&](const FinishSpec &) { emitFinish(k, spec); },
                 [&](const NormSpec &) { emitNorm(k, spec); },
                 [&](const RouterSpec &) { emitRouter(k, spec); },
                 [&](const SampleSpec &) { emitSample(k, spec); },
             },
             spec.op);
}

OwningOpRef<ModuleOp> emitCudaKernel(MLIRContext *context, const CudaSpec &spec,
                                     const CudaTarget &target) {
  std::string name = nameOf(spec);
  OwningOpRef<ModuleOp> module = ModuleOp::create(UnknownLoc::get(context), name);
  CudaKernel kernel(*module, target, name, operandsOf(spec));
  emitCudaKernel(kernel, spec);
  kernel.finish();
  auto bytes =
      module->lookupSymbol<LLVM::LLVMFuncOp>(name)->getAttrOfType<IntegerAttr>("moe.shared_bytes");
  if (bytes.getInt() > target.sharedBytes) {
    emitError(module->getLoc()) << "kernel " << name << " keeps " << bytes.getInt()
                                << " bytes in shared memory, and a block on " << target.chip
                                << " has at most " << target.sharedBytes
                                << ": its rows of activations are too long; leave out the target "
                                << target.name;
    return nullptr;
  }
  return module;
}

} // namespace moe::codegen
