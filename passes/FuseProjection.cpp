// Fuses the linear layers of the vision tower with what precedes and follows them.
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "passes/Matching.h"
#include "passes/Passes.h"

namespace moe {
#define GEN_PASS_DEF_FUSEPROJECTION
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
// `Linear`: LinearOp or LinearBiasOp.
template <class Linear> struct FuseLinear : OpRewritePattern<Linear> {
  using OpRewritePattern<Linear>::OpRewritePattern;

  LogicalResult matchAndRewrite(Linear linear, PatternRewriter &rewriter) const override {
    Value bias;
    if constexpr (std::is_same_v<Linear, LinearBiasOp>)
      bias = linear.getBias();
    Operation *last = linear;
    auto follower = [&]<class Op>(Op *) {
      Value value = last->getResult(0);
      return value.hasOneUse() ? dyn_cast<Op>(*value.user_begin()) : Op();
    };
    auto gelu = follower(static_cast<GeluOp *>(nullptr));
    if (gelu)
      last = gelu;
    Value residual;
    if (auto add = follower(static_cast<AddOp *>(nullptr))) {
      residual = add.getA() == last->getResult(0) ? add.getB() : add.getA();
      last = add;
    }
    Value x = linear.getX();
    auto norm = soleProducer<LayerNormOp>(x);
    if (norm)
      x = norm.getX();
    rewriter.setInsertionPoint(last);
    rewriter.replaceOpWithNewOp<ProjectionOp>(
        last, last->getResult(0).getType(), x, linear.getWeight(),
        norm ? norm.getWeight() : Value(), norm ? norm.getBias() : Value(), bias, residual,
        norm ? norm.getEpsAttr() : FloatAttr(), gelu ? rewriter.getUnitAttr() : UnitAttr());
    return success();
  }
};

struct FuseProjection : moe::impl::FuseProjectionBase<FuseProjection> {
  void runOnOperation() override {
    auto vision = getOperation().lookupSymbol<func::FuncOp>("vision");
    if (!vision)
      return;
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseLinear<LinearOp>, FuseLinear<LinearBiasOp>>(&getContext());
    if (failed(fuse(vision, std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
