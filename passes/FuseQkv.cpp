// Fuses norm, projections and attention: a layer's attention becomes two kernels.
#include "passes/Matching.h"
#include "passes/Passes.h"
#include "passes/Weights.h"
#include "llvm/ADT/TypeSwitch.h"

namespace moe {
#define GEN_PASS_DEF_FUSEQKV
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
// How a query or key is made, from the last step to the first; only the projection must be there.
struct Projection {
  TemperatureOp temperature;
  HeadNormOp norm;
  RopeOp rope;
  LinearOp linear;

  explicit Projection(Value value) {
    temperature = stepBefore<TemperatureOp>(value);
    norm = stepBefore<HeadNormOp>(value);
    rope = stepBefore<RopeOp>(value);
    linear = soleProducer<LinearOp>(value);
  }

private:
  // The op that makes the value, if it is of the type; the value is then what the op read.
  template <typename Op> static Op stepBefore(Value &value) {
    Op op = soleProducer<Op>(value);
    if (op)
      value = op.getX();
    return op;
  }
};

// The cache that an op uses, if it is one of those that say so.
FlatSymbolRefAttr cacheOf(Operation *op) {
  return TypeSwitch<Operation *, FlatSymbolRefAttr>(op)
      .Case<AppendOp, AttentionOp, AttentionBlockOp>([](auto op) { return op.getCacheAttr(); })
      .Default(FlatSymbolRefAttr());
}

// The append whose keys and values `attention` is the first to see.
AppendOp appendBefore(AttentionOp attention) {
  for (Operation *op = attention->getPrevNode(); op; op = op->getPrevNode()) {
    FlatSymbolRefAttr cache = cacheOf(op);
    if (cache == attention.getCacheAttr())
      return dyn_cast<AppendOp>(op);
    if (!cache && !isMemoryEffectFree(op))
      return {}; // who knows what it does to caches
  }
  return {};
}

struct FuseAttention : OpRewritePattern<AttentionOp> {
  Weights &weights;

  FuseAttention(MLIRContext *context, Weights &weights)
      : OpRewritePattern(context), weights(weights) {}

  LogicalResult matchAndRewrite(AttentionOp attention, PatternRewriter &rewriter) const override {
    AppendOp append = appendBefore(attention);
    if (!append || append.getPositions() != attention.getPositions() ||
        append.getSequences() != attention.getSequences())
      return rewriter.notifyMatchFailure(attention, "does not follow an append of its tokens");

    Projection q(attention.getQueries()), k(append.getKeys());
    auto v = soleProducer<LinearOp>(append.getValues());
    if (!q.linear || !k.linear || !v)
      return rewriter.notifyMatchFailure(attention, "has operands that are no sole projections");
    CacheOp cache = weights.cache(attention.getCacheAttr());
    if (!cache || failed(checkFinish(q, k, attention, cache, rewriter)))
      return failure();

    auto norm = q.linear.getX().getDefiningOp<RmsNormOp>();
    if (!norm || !norm.getResult().hasNUses(3) || k.linear.getX() != norm || v.getX() != norm)
      return rewriter.notifyMatchFailure(attention, "does not project one norm and nothing else");

    Weight parts[] = {weights.loadedBy(q.linear.getWeight()),
                      weights.loadedBy(k.linear.getWeight()), weights.loadedBy(v.getWeight())};
    if (!sameElements(parts))
      return rewriter.notifyMatchFailure(attention, "has weights that cannot be joined");
    int64_t rows = 0;
    Sources sources;
    for (Weight part : parts) {
      rows += part.dim(0);
      llvm::append_range(sources, part.sources());
    }

    Location loc = attention.getLoc();
    LoadWeightOp weight =
        weights.addAndLoad(rewriter, loc, parts, "qkv", {rows, parts[0].dim(1)}, {sources});
    auto type = RankedTensorType::get({norm.getType().getDimSize(0), rows}, rewriter.getF32Type());
    auto qkv = QkvOp::create(rewriter, loc, type, norm.getX(), norm.getWeight(), weight,
                             norm.getEpsAttr());
    rewriter.replaceOpWithNewOp<AttentionBlockOp>(
        attention, attention.getType(), attention.getCacheAttr(), qkv, attention.getPositions(),
        attention.getSequences(), q.rope ? q.rope.getTable() : Value(),
        q.norm ? q.norm.getEpsAttr() : FloatAttr(),
        q.temperature ? q.temperature.getScaleAttr() : FloatAttr(),
        q.temperature ? q.temperature.getFloorAttr() : FloatAttr());
    rewriter.eraseOp(append);
    return success();
  }

  // Whether attention_block can say what is done to q and k after their projection.
  LogicalResult checkFinish(Projection &q, Projection &k, AttentionOp attention, CacheOp cache,
                            PatternRewriter &rewriter) const {
    if (k.temperature ||
        (q.temperature && q.temperature.getPositions() != attention.getPositions()))
      return rewriter.notifyMatchFailure(attention, "has an odd temperature");
    if (bool(q.rope) != bool(k.rope) ||
        (q.rope && (q.rope.getTable() != k.rope.getTable() ||
                    q.rope.getTable().getType().getDimSize(1) != int64_t(cache.getHeadDim()))))
      return rewriter.notifyMatchFailure(attention, "rotates q and k differently");
    if (bool(q.norm) != bool(k.norm) || (q.norm && (q.norm.getEpsAttr() != k.norm.getEpsAttr() ||
                                                    q.norm.getHeadDim() != cache.getHeadDim() ||
                                                    k.norm.getHeadDim() != cache.getHeadDim())))
      return rewriter.notifyMatchFailure(attention, "norms q and k differently");
    return success();
  }
};

struct FuseQkv : moe::impl::FuseQkvBase<FuseQkv> {
  void runOnOperation() override {
    Weights weights(getOperation());
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseAttention>(&getContext(), weights);
    if (failed(fuse(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
