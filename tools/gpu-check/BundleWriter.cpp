// Compiles kernels and keeps what a bundle is made of.
#include "tools/gpu-check/BundleWriter.h"
#include "compiler/targets/cuda/LowerToCuda.h"
#include "compiler/targets/cuda/ToPtx.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "tools/gpu-check/Bundle.h"

using namespace llvm;

namespace moe::gpucheck {

BundleWriter::BundleWriter(codegen::CudaTarget target, std::optional<std::string> ptxas)
    : cudaTarget(std::move(target)), ptxas(std::move(ptxas)) {
  bundle.version = kBundleVersion;
  bundle.writer = "moec " MOE_VERSION;
  bundle.target = cudaTarget.chip;
}

// LLVM marks each piece of inline assembly by two lines of comments.
static std::string withoutComments(StringRef ptx) {
  std::string text;
  while (!ptx.empty()) {
    auto [line, rest] = ptx.split('\n');
    if (!line.ltrim().starts_with("//"))
      text += (line + "\n").str();
    ptx = rest;
  }
  return text;
}

Expected<uint32_t> BundleWriter::kernel(const codegen::ChosenKernel<codegen::CudaKernel> &chosen) {
  const std::string &name = chosen.name;
  auto [known, isNew] = kernels.try_emplace(name, uint32_t(bundle.kernels.size()));
  if (!isNew)
    return known->second;
  mlir::MLIRContext context;
  context.loadDialect<mlir::arith::ArithDialect, mlir::LLVM::LLVMDialect, mlir::math::MathDialect,
                      mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
  auto module = codegen::emitKernel(&context, chosen, cudaTarget);
  if (!module)
    return createStringError("building '" + name + "' failed");
  auto function = module->lookupSymbol<mlir::LLVM::LLVMFuncOp>(name);
  auto attribute = [&](StringRef key) {
    return uint32_t(function->getAttrOfType<mlir::IntegerAttr>(key).getInt());
  };
  auto kernel = std::make_unique<fb::KernelT>();
  kernel->name = name;
  kernel->threads = attribute("moe.threads");
  kernel->shared_bytes = attribute("moe.shared_bytes");
  kernel->blocks_per_sm = attribute("moe.blocks_per_sm");
  if (mlir::failed(codegen::lowerCudaKernels(*module)))
    return createStringError("lowering '" + name + "' failed");
  auto ptx = codegen::toPtx(*module, cudaTarget);
  if (!ptx)
    return ptx.takeError();
  kernel->ptx = withoutComments(*ptx);
  if (ptxas) {
    auto cubin = codegen::assemble(*ptxas, kernel->ptx, cudaTarget);
    if (!cubin)
      return cubin.takeError();
    kernel->cubin.assign(cubin->bytes.begin(), cubin->bytes.end());
  }
  bundle.kernels.push_back(std::move(kernel));
  return known->second;
}

uint32_t BundleWriter::blob(ArrayRef<uint8_t> bytes) {
  auto [known, isNew] = blobs.try_emplace(bytes.vec(), uint32_t(bundle.blobs.size()));
  if (isNew) {
    bundle.blobs.push_back(std::make_unique<fb::BlobT>());
    bundle.blobs.back()->bytes = known->first;
  }
  return known->second;
}

std::vector<uint8_t> BundleWriter::finish() {
  flatbuffers::FlatBufferBuilder builder;
  fb::FinishBundleBuffer(builder, fb::Bundle::Pack(builder, &bundle));
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

} // namespace moe::gpucheck
