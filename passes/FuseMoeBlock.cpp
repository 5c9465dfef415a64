// Fuses a mixture-of-experts layer: norm, router, shared and routed experts, residual.
#include "passes/Matching.h"
#include "passes/Passes.h"
#include "passes/Weights.h"

namespace moe {
#define GEN_PASS_DEF_FUSEMOEBLOCK
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
// The sum h + shared + routed, whichever way it was added up.
struct Terms {
  Value residual;
  LinearOp shared; // the shared expert's down projection
  ExpertsOp routed;

  static FailureOr<Terms> match(AddOp add) {
    auto inner = soleProducer<AddOp>(add.getA());
    Value outer = add.getB();
    if (!inner) {
      inner = soleProducer<AddOp>(add.getB());
      outer = add.getA();
    }
    if (!inner)
      return failure();
    Terms terms;
    for (Value term : {outer, Value(inner.getA()), Value(inner.getB())}) {
      if (auto experts = soleProducer<ExpertsOp>(term); experts && !terms.routed)
        terms.routed = experts;
      else if (auto linear = soleProducer<LinearOp>(term); linear && !terms.shared)
        terms.shared = linear;
      else
        terms.residual = term;
    }
    if (!terms.routed || !terms.shared || !terms.residual)
      return failure();
    return terms;
  }
};

struct FuseLayer : OpRewritePattern<AddOp> {
  Weights &weights;

  FuseLayer(MLIRContext *context, Weights &weights) : OpRewritePattern(context), weights(weights) {}

  LogicalResult matchAndRewrite(AddOp add, PatternRewriter &rewriter) const override {
    FailureOr<Terms> terms = Terms::match(add);
    if (failed(terms))
      return rewriter.notifyMatchFailure(add, "does not end a layer of experts");
    ExpertsOp routed = terms->routed;
    FailureOr<GatedMlp> shared = GatedMlp::match(terms->shared);
    auto route = soleProducer<RouteOp>(routed.getExperts());
    if (failed(shared) || !route || soleProducer<RouteOp>(routed.getScores()) != route)
      return rewriter.notifyMatchFailure(add, "lacks a shared expert or a router");
    auto router = soleProducer<LinearOp>(route.getLogits());
    auto norm = routed.getX().getDefiningOp<RmsNormOp>();
    if (!router || !norm || norm.getX() != terms->residual)
      return rewriter.notifyMatchFailure(add, "does not add to what its norm takes");
    // The router, the routed experts, and gate and up of the shared one.
    if (router.getX() != norm || shared->x() != norm || !norm.getResult().hasNUses(4))
      return rewriter.notifyMatchFailure(add, "has a norm with other users");

    Weight gates[] = {weights.loadedBy(shared->gate.getWeight()),
                      weights.loadedBy(shared->up.getWeight()), weights.loadedBy(routed.getGate()),
                      weights.loadedBy(routed.getUp())};
    Weight downs[] = {weights.loadedBy(shared->down.getWeight()),
                      weights.loadedBy(routed.getDown())};
    ArrayRef<Weight> sharedGates = ArrayRef(gates).take_front(2);
    ArrayRef<Weight> routedGates = ArrayRef(gates).drop_front(2);
    if (!sameElements(sharedGates) || !sameElements(routedGates) || !downs[0] || !downs[1])
      return rewriter.notifyMatchFailure(add, "has weights that cannot be joined");
    int64_t experts = gates[2].dim(0), width = gates[2].dim(1), hidden = gates[2].dim(2);
    if (gates[0].dim(0) != width || gates[1].dim(0) != width)
      return rewriter.notifyMatchFailure(add, "has a shared expert of another width");

    Sources sharedGateUp = gates[0].sources();
    llvm::append_range(sharedGateUp, gates[1].sources());

    // All are named after what the names of the block's weights have in common.
    Weight all[] = {gates[0], gates[1], gates[2], gates[3], downs[0], downs[1]};
    auto load = [&](ArrayRef<Weight> parts, StringRef name, ArrayRef<int64_t> shape,
                    const Joined &joined) {
      return weights.addAndLoad(rewriter, add.getLoc(), parts, name, shape, joined, all);
    };
    LoadWeightOp sharedGateUpLoad =
        load(sharedGates, "moe.shared_gate_up", {2 * width, hidden}, {sharedGateUp});
    LoadWeightOp gateUpLoad =
        load(routedGates, "moe.gate_up", {experts, 2 * width, hidden}, joinRows(routedGates));
    LoadWeightOp sharedDownLoad =
        load(downs[0], "moe.shared_down", {hidden, width}, {downs[0].sources()});
    LoadWeightOp downLoad =
        load(downs[1], "moe.down", {experts, hidden, width}, {downs[1].sources()});
    rewriter.replaceOpWithNewOp<MoeBlockOp>(
        add, add.getType(), norm.getX(), norm.getWeight(), router.getWeight(), sharedGateUpLoad,
        gateUpLoad, sharedDownLoad, downLoad, route.getKAttr(), norm.getEpsAttr());
    return success();
  }
};

struct FuseMoeBlock : moe::impl::FuseMoeBlockBase<FuseMoeBlock> {
  void runOnOperation() override {
    Weights weights(getOperation());
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseLayer>(&getContext(), weights);
    if (failed(fuse(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
