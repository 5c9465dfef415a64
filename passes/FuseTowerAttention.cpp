// Fuses norm, projections, rotation and attention of a layer of the vision tower.
#include "passes/Matching.h"
#include "passes/Passes.h"
#include "passes/Weights.h"

namespace moe {
#define GEN_PASS_DEF_FUSETOWERATTENTION
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
struct FuseTiles : OpRewritePattern<TileAttentionOp> {
  Weights &weights;

  FuseTiles(MLIRContext *context, Weights &weights) : OpRewritePattern(context), weights(weights) {}

  LogicalResult matchAndRewrite(TileAttentionOp attention,
                                PatternRewriter &rewriter) const override {
    auto qRope = soleProducer<PatchRopeOp>(attention.getQueries()),
         kRope = soleProducer<PatchRopeOp>(attention.getKeys());
    if (!qRope || !kRope)
      return rewriter.notifyMatchFailure(attention, "has queries or keys that are not rotated");
    for (PatchRopeOp rope : {qRope, kRope})
      if (rope.getHeads() != attention.getHeads() || rope.getGrid() != attention.getGrid() ||
          rope.getTheta() != qRope.getTheta())
        return rewriter.notifyMatchFailure(attention, "rotates other heads or places");
    auto q = soleProducer<LinearBiasOp>(qRope.getX()), k = soleProducer<LinearBiasOp>(kRope.getX()),
         v = soleProducer<LinearBiasOp>(attention.getValues());
    if (!q || !k || !v)
      return rewriter.notifyMatchFailure(attention, "has operands that are no sole projections");
    auto norm = q.getX().getDefiningOp<LayerNormOp>();
    if (!norm || !norm.getResult().hasNUses(3) || k.getX() != norm || v.getX() != norm)
      return rewriter.notifyMatchFailure(attention, "does not project one norm and nothing else");

    Weight parts[] = {weights.loadedBy(q.getWeight()), weights.loadedBy(k.getWeight()),
                      weights.loadedBy(v.getWeight())};
    Weight biases[] = {weights.loadedBy(q.getBias()), weights.loadedBy(k.getBias()),
                       weights.loadedBy(v.getBias())};
    if (!sameElements(parts) || !sameElements(biases))
      return rewriter.notifyMatchFailure(attention, "has weights that cannot be joined");
    auto sourcesOf = [](ArrayRef<Weight> parts) {
      Sources sources;
      for (Weight part : parts)
        llvm::append_range(sources, part.sources());
      return sources;
    };
    Location loc = attention.getLoc();
    const int64_t rows = 3 * parts[0].dim(0); // of each as many, as the types of q, k and v say
    LoadWeightOp weight = weights.addAndLoad(rewriter, loc, parts, "qkv", {rows, parts[0].dim(1)},
                                             {sourcesOf(parts)});
    LoadWeightOp bias =
        weights.addAndLoad(rewriter, loc, biases, "qkv_bias", {rows}, {sourcesOf(biases)});
    auto type = RankedTensorType::get({norm.getType().getDimSize(0), rows}, rewriter.getF32Type());
    auto qkv = TowerQkvOp::create(rewriter, loc, type, norm.getX(), norm.getWeight(),
                                  norm.getBias(), weight, bias, attention.getHeadsAttr(),
                                  attention.getGridAttr(), qRope.getThetaAttr(), norm.getEpsAttr());
    rewriter.replaceOpWithNewOp<TowerAttentionOp>(
        attention, attention.getType(), qkv, attention.getHeadsAttr(), attention.getGridAttr());
    return success();
  }
};

struct FuseTowerAttention : moe::impl::FuseTowerAttentionBase<FuseTowerAttention> {
  void runOnOperation() override {
    Weights weights(getOperation());
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseTiles>(&getContext(), weights);
    if (failed(fuse(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
