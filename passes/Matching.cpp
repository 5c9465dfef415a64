// Pieces of a model that more than one fusion looks for.
#include "passes/Matching.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

using namespace mlir;
using namespace moe;

FailureOr<GatedMlp> GatedMlp::match(Value result) {
  auto down = soleProducer<LinearOp>(result);
  auto swiglu = down ? soleProducer<SwigluOp>(down.getX()) : SwigluOp();
  if (!swiglu)
    return failure();
  auto gate = soleProducer<LinearOp>(swiglu.getGate());
  auto up = soleProducer<LinearOp>(swiglu.getUp());
  if (!gate || !up || gate.getX() != up.getX())
    return failure();
  return GatedMlp{gate, up, down};
}

LogicalResult moe::fuse(Operation *module, RewritePatternSet &&patterns) {
  GreedyRewriteConfig config;
  config.enableFolding(false).enableConstantCSE(false).setRegionSimplificationLevel(
      GreedySimplifyRegionLevel::Disabled);
  return applyPatternsGreedily(module, std::move(patterns), config);
}
