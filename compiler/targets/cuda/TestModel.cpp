// Imports a published model with random weights and lowers it, for the tests of its kernels.
#include "compiler/targets/cuda/TestModel.h"
#include "compiler/import/Llama4.h"
#include "compiler/import/RandomWeights.h"
#include "compiler/targets/Targets.h"
#include "compiler/targets/cuda/LowerToCuda.h"
#include "dialects/plan/PlanDialect.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Pipeline.h"
#include <gtest/gtest.h>

namespace moe::codegen {

std::map<int64_t, std::vector<ModelCall>> modelCalls(const std::string &config,
                                                     const std::string &weights, int64_t maxStep) {
  std::map<int64_t, std::vector<ModelCall>> programs;
  auto failed = [&](llvm::Error error) {
    ADD_FAILURE() << config << ": " << llvm::toString(std::move(error));
    return programs;
  };
  mlir::MLIRContext context;
  context.loadDialect<MoeDialect, plan::PlanDialect, mlir::func::FuncDialect,
                      mlir::arith::ArithDialect>();
  std::vector<std::string> warnings;
  auto parsed = Llama4Config::open(
      std::string(MOE_SOURCE_DIR "/models/configs/") + config + "/config.json", warnings,
      /*vision=*/false);
  if (!parsed)
    return failed(parsed.takeError());
  RandomWeights tensors(*parsed, 1);
  auto model = importLlama4(context, *parsed, tensors, {.cache = Storage::F16});
  if (!model)
    return failed(model.takeError());
  mlir::PassManager passes(&context, mlir::ModuleOp::getOperationName());
  buildFusePipeline(passes);
  buildPackPipeline(passes, findTargetFormats, "cuda", weights);
  if (mlir::failed(passes.run(*model->module)))
    return failed(llvm::createStringError("the passes failed"));
  auto plan = lowerToCuda(*model->module, maxStep);
  if (mlir::failed(plan))
    return failed(llvm::createStringError("lowering failed"));
  for (auto program : plan->module->getOps<plan::ProgramOp>())
    for (auto call : program.getBody().getOps<plan::CallOp>()) {
      auto &calls = programs[program.getTokens()];
      std::string name = call.getKernelName().str();
      auto named = [&](const ChosenKernel<CudaKernel> &kernel) { return kernel.name == name; };
      if (llvm::none_of(calls, [&](const ModelCall &other) { return named(other.kernel); }))
        calls.push_back({*llvm::find_if(plan->kernels, named), int64_t(*call.getBlocks())});
    }
  return programs;
}

} // namespace moe::codegen
