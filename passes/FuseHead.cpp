// Fuses the end of the model: the logits of the wanted tokens.
#include "passes/Matching.h"
#include "passes/Passes.h"

namespace moe {
#define GEN_PASS_DEF_FUSEHEAD
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
struct FuseLogits : OpRewritePattern<LinearOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(LinearOp linear, PatternRewriter &rewriter) const override {
    auto norm = soleProducer<RmsNormOp>(linear.getX());
    auto select = norm ? soleProducer<SelectRowsOp>(norm.getX()) : SelectRowsOp();
    if (!select)
      return rewriter.notifyMatchFailure(linear, "does not project the norm of chosen rows");
    rewriter.replaceOpWithNewOp<HeadOp>(linear, linear.getType(), select.getX(), select.getRows(),
                                        norm.getWeight(), linear.getWeight(), norm.getEpsAttr());
    return success();
  }
};

struct FuseHead : moe::impl::FuseHeadBase<FuseHead> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseLogits>(&getContext());
    if (failed(fuse(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
