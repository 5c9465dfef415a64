// Fuses what leaves the vision tower.
#include "passes/Matching.h"
#include "passes/Passes.h"

namespace moe {
#define GEN_PASS_DEF_FUSETOWEROUTPUT
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
struct FuseLastNorm : OpRewritePattern<PixelShuffleOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(PixelShuffleOp shuffle, PatternRewriter &rewriter) const override {
    auto drop = soleProducer<DropClassOp>(shuffle.getX());
    auto norm = drop ? soleProducer<LayerNormOp>(drop.getX()) : LayerNormOp();
    if (!norm)
      return rewriter.notifyMatchFailure(shuffle, "does not shuffle normed patches");
    rewriter.replaceOpWithNewOp<TowerOutputOp>(shuffle, shuffle.getType(), norm.getX(),
                                               norm.getWeight(), norm.getBias(),
                                               shuffle.getGridAttr(), norm.getEpsAttr());
    return success();
  }
};

struct FuseTowerOutput : moe::impl::FuseTowerOutputBase<FuseTowerOutput> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseLastNorm>(&getContext());
    if (failed(fuse(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
