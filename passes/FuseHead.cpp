// Fuses the end of the model: the logits of the wanted tokens, and their hidden states.
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
    // Others may want the norm too: it is of few rows, and computed again for them.
    auto norm = linear.getX().getDefiningOp<RmsNormOp>();
    auto select = norm ? soleProducer<SelectRowsOp>(norm.getX()) : SelectRowsOp();
    if (!select)
      return rewriter.notifyMatchFailure(linear, "does not project the norm of chosen rows");
    rewriter.replaceOpWithNewOp<HeadOp>(linear, linear.getType(), select.getX(), select.getRows(),
                                        norm.getWeight(), linear.getWeight(), norm.getEpsAttr());
    return success();
  }
};

struct FuseHiddenStates : OpRewritePattern<RmsNormOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(RmsNormOp norm, PatternRewriter &rewriter) const override {
    auto select = soleProducer<SelectRowsOp>(norm.getX());
    if (!select)
      return rewriter.notifyMatchFailure(norm, "does not norm chosen rows");
    if (llvm::any_of(norm->getUsers(), llvm::IsaPred<LinearOp>))
      return rewriter.notifyMatchFailure(norm, "is for logits, which are fused first");
    rewriter.replaceOpWithNewOp<FinalNormOp>(norm, norm.getType(), select.getX(), select.getRows(),
                                             norm.getWeight(), norm.getEpsAttr());
    return success();
  }
};

struct FuseHead : moe::impl::FuseHeadBase<FuseHead> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseLogits, FuseHiddenStates>(&getContext());
    if (failed(fuse(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
