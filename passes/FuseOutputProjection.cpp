// Fuses a projection with the residual add that follows it.
#include "passes/Matching.h"
#include "passes/Passes.h"

namespace moe {
#define GEN_PASS_DEF_FUSEOUTPUTPROJECTION
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
struct FuseAdd : OpRewritePattern<AddOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(AddOp add, PatternRewriter &rewriter) const override {
    auto linear = soleProducer<LinearOp>(add.getB());
    Value residual = add.getA();
    if (!linear) {
      linear = soleProducer<LinearOp>(add.getA());
      residual = add.getB();
    }
    if (!linear)
      return rewriter.notifyMatchFailure(add, "adds no projection of its own");
    rewriter.replaceOpWithNewOp<LinearResidualOp>(add, add.getType(), linear.getX(),
                                                  linear.getWeight(), residual);
    return success();
  }
};

struct FuseOutputProjection : moe::impl::FuseOutputProjectionBase<FuseOutputProjection> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseAdd>(&getContext());
    if (failed(fuse(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
