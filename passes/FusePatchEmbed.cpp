// Fuses what enters the vision tower.
#include "passes/Matching.h"
#include "passes/Passes.h"

namespace moe {
#define GEN_PASS_DEF_FUSEPATCHEMBED
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
struct FuseFirstNorm : OpRewritePattern<LayerNormOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(LayerNormOp norm, PatternRewriter &rewriter) const override {
    auto positions = soleProducer<AddPositionsOp>(norm.getX());
    auto classRow = positions ? soleProducer<AppendClassOp>(positions.getX()) : AppendClassOp();
    auto linear = classRow ? soleProducer<LinearOp>(classRow.getX()) : LinearOp();
    auto patches = linear ? soleProducer<PatchesOp>(linear.getX()) : PatchesOp();
    if (!patches)
      return rewriter.notifyMatchFailure(norm, "does not norm patches with their positions");
    rewriter.replaceOpWithNewOp<PatchEmbedOp>(
        norm, norm.getType(), patches.getTiles(), linear.getWeight(), classRow.getClassRow(),
        positions.getTable(), norm.getWeight(), norm.getBias(), patches.getPatchAttr(),
        patches.getRescaleAttr(), patches.getMeanAttr(), patches.getStdAttr(), norm.getEpsAttr());
    return success();
  }
};

struct FusePatchEmbed : moe::impl::FusePatchEmbedBase<FusePatchEmbed> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FuseFirstNorm>(&getContext());
    if (failed(fuse(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
