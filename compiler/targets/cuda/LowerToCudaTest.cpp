// The kernels of published models as the lowering chooses them: whether targets have the shared
// memory that they want.
#include "compiler/kernels/gate_up/GateUp.h"
#include "compiler/targets/cuda/TestModel.h"
#include "compiler/targets/cuda/TestPtx.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include <set>

namespace moe::codegen {

namespace {

class ModelKernels : public testing::Test {
protected:
  ModelKernels() {
    context.loadDialect<mlir::arith::ArithDialect, mlir::LLVM::LLVMDialect, mlir::math::MathDialect,
                        mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
  }
  bool builds(const ChosenKernel<CudaKernel> &kernel, llvm::StringRef chip) {
    return bool(emitKernel(&context, kernel, *cudaTarget(chip)));
  }

  mlir::MLIRContext context;
  std::string refused;
  mlir::ScopedDiagnosticHandler handler{&context, [this](mlir::Diagnostic &diagnostic) {
                                          refused += diagnostic.str() + "\n";
                                          return mlir::success();
                                        }};
};

// Every kernel that the compiler chooses has the shared memory that it wants, on every target.
TEST_F(ModelKernels, FitSharedMemory) {
  for (const char *model : {"scout", "maverick"})
    for (const char *weights : {"bf16", "int4", "int4-g32", "int8", "int8-row", "fp8", "fp8-g128",
                                "bf16,routed=fp8", "int8,routed=int4"}) {
      std::set<std::string> seen;
      for (auto &[tokens, calls] : modelCalls(model, weights, 128))
        for (const ModelCall &call : calls)
          if (seen.insert(call.kernel.name).second)
            for (llvm::StringRef chip : cudaTargetNames())
              EXPECT_TRUE(builds(call.kernel, chip))
                  << model << " " << weights << ": " << std::exchange(refused, "");
      EXPECT_GE(seen.size(), 20u);
    }
}

// No ring is so small that it has a single stage: the kernel is refused instead.
TEST_F(ModelKernels, RefuseWhatDoesNotFit) {
  ChosenKernel<CudaKernel> gateUp(CudaSmallGateUp{9216, 1024, 0, 0, kBf16, {}, 1e-5f}); // 144 KiB
  EXPECT_TRUE(builds(gateUp, "sm_90a")) << refused;
  EXPECT_FALSE(builds(gateUp, "sm_80"));
  EXPECT_NE(
      refused.find("bytes in shared memory, and a block on sm_80 has at most 166912: its rows "
                   "of activations are too long; leave out the target cuda:sm_80"),
      std::string::npos)
      << refused;
}

} // namespace

} // namespace moe::codegen
