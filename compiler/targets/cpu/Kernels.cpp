// Builds kernels by the table of Kernels.inc.
#include "compiler/targets/cpu/Kernels.h"
#include "compiler/targets/cpu/CpuKernel.h"

using namespace mlir;

namespace moe::codegen {

namespace {
struct Emit {
  CpuKernel &kernel;
#define MOE_KERNEL(Spec, emit)                                                                     \
  void operator()(const Spec &spec) const { emit(kernel, spec); }
#include "compiler/targets/cpu/Kernels.inc"
#undef MOE_KERNEL
};
} // namespace

OwningOpRef<ModuleOp> emitKernel(MLIRContext *context, const KernelSpec &spec,
                                 const CpuTarget &target) {
  std::string name = nameOf(spec);
  OwningOpRef<ModuleOp> module = ModuleOp::create(UnknownLoc::get(context), name);
  bool byRows = std::holds_alternative<HeadSpec>(spec);
  CpuKernel kernel(*module, target, name,
                   byRows ? CpuKernel::Count::Rows : CpuKernel::Count::Tokens);
  std::visit(Emit{kernel}, spec);
  kernel.finish();
  return module;
}

} // namespace moe::codegen
