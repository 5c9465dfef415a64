// The only place that orders passes.
#include "passes/Pipeline.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

using namespace mlir;

void moe::buildFusePipeline(OpPassManager &pm) {
  pm.addPass(createFuseQkv());
  pm.addPass(createFuseMoeBlock());
  pm.addPass(createFuseMlp());
  pm.addPass(createFuseOutputProjection()); // after those that end in the same linear and add
  pm.addPass(createFuseHead());
  pm.addPass(createFusePatchEmbed());
  pm.addPass(createFuseTowerAttention());
  pm.addPass(createFuseTowerOutput());
  pm.addPass(createFuseProjection()); // takes the linears and norms that the others left
  pm.addPass(createDropUnusedWeights());
}

void moe::buildPackPipeline(OpPassManager &pm, FindTarget find, llvm::StringRef target,
                            llvm::StringRef weights) {
  pm.addPass(createPackWeights(std::move(find), {target.str(), weights.str()}));
}

void moe::registerMoePassesAndPipelines(const FindTarget &find) {
  // Of two passes of a name the first stays.
  registerPass([find] { return createPackWeights(find); });
  registerMoePasses();
  PassPipelineRegistration<>("moe-fuse", "fuse a model as imported into whole blocks",
                             buildFusePipeline);
}
