// Fuses a dense layer: norm, gated MLP, residual.
#include "passes/Matching.h"
#include "passes/Passes.h"
#include "passes/Weights.h"

namespace moe {
#define GEN_PASS_DEF_FUSEMLP
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
struct FuseLayer : OpRewritePattern<AddOp> {
  Weights &weights;

  FuseLayer(MLIRContext *context, Weights &weights) : OpRewritePattern(context), weights(weights) {}

  LogicalResult matchAndRewrite(AddOp add, PatternRewriter &rewriter) const override {
    if (succeeded(rewrite(add, add.getA(), add.getB(), rewriter)) ||
        succeeded(rewrite(add, add.getB(), add.getA(), rewriter)))
      return success();
    return rewriter.notifyMatchFailure(add, "does not end a dense layer");
  }

  LogicalResult rewrite(AddOp add, Value residual, Value term, PatternRewriter &rewriter) const {
    FailureOr<GatedMlp> mlp = GatedMlp::match(term);
    if (failed(mlp))
      return failure();
    auto norm = mlp->x().getDefiningOp<RmsNormOp>();
    if (!norm || norm.getX() != residual || !norm.getResult().hasNUses(2))
      return failure();
    Weight parts[] = {weights.loadedBy(mlp->gate.getWeight()),
                      weights.loadedBy(mlp->up.getWeight())};
    if (!sameElements(parts))
      return failure();

    Sources sources = parts[0].sources();
    llvm::append_range(sources, parts[1].sources());
    LoadWeightOp gateUp =
        weights.addAndLoad(rewriter, add.getLoc(), parts, "gate_up",
                           {parts[0].dim(0) + parts[1].dim(0), parts[0].dim(1)}, {sources});
    rewriter.replaceOpWithNewOp<MlpBlockOp>(add, add.getType(), residual, norm.getWeight(), gateUp,
                                            mlp->down.getWeight(), norm.getEpsAttr());
    return success();
  }
};

struct FuseMlp : moe::impl::FuseMlpBase<FuseMlp> {
  void runOnOperation() override {
    Weights weights(getOperation());
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseLayer>(&getContext(), weights);
    if (failed(fuse(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
