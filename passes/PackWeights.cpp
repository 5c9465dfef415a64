// Chooses how the plan stores each weight, from the ops that read it.
#include "dialects/moe/MoeOps.h"
#include "passes/Passes.h"
#include "llvm/ADT/TypeSwitch.h"

namespace moe {
#define GEN_PASS_DEF_PACKWEIGHTS
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
struct PackWeights : moe::impl::PackWeightsBase<PackWeights> {
  using PackWeightsBase::PackWeightsBase;

  void runOnOperation() override {
    if (device == DeviceKind::Cuda && storage != Storage::BF16) {
      getOperation().emitError() << "the kernels for cuda take weights in bf16, found storage="
                                 << nameOf(storage) << ": use storage=bf16";
      return signalPassFailure();
    }
    symbols.emplace(getOperation());
    variants.clear();
    SmallVector<LoadWeightOp> loads;
    WalkResult result = getOperation().walk([&](Operation *op) {
      if (auto load = dyn_cast<LoadWeightOp>(op))
        loads.push_back(load);
      for (OpOperand &use : op->getOpOperands())
        if (auto load = use.get().getDefiningOp<LoadWeightOp>(); load && failed(pack(load, use)))
          return WalkResult::interrupt();
      return WalkResult::advance();
    });
    if (result.wasInterrupted())
      return signalPassFailure();
    for (LoadWeightOp load : loads)
      if (load.use_empty())
        load.erase();
  }

private:
  // Packs the weight as this use wants it. The first use of a weight settles its packing; one that
  // wants another gets a load of another symbol.
  LogicalResult pack(LoadWeightOp load, OpOperand &use) {
    auto weight = symbols->lookup<WeightOp>(load.getWeight());
    PackingAttr packing = packingFor(use);
    if (!packing) {
      InFlightDiagnostic error = use.getOwner()->emitOpError()
                                 << "reads weight " << load.getWeightAttr()
                                 << " in a way that has no packing";
      error.attachNote(weight.getLoc()) << "the weight is here";
      return error;
    }
    if (WeightOp variant = packedVariant(weight, packing); variant != weight) {
      OpBuilder builder(load);
      use.set(LoadWeightOp::create(builder, load.getLoc(), load.getType(), variant.getSymName()));
    }
    return success();
  }

  // What the op wants to read, or null if it is none that kernels exist for.
  PackingAttr packingFor(OpOperand &use) {
    Builder builder(&getContext());
    Type f32 = builder.getF32Type();
    Type matrix = storage == Storage::F32 ? f32 : builder.getBF16Type();
    auto packing = [&](Layout layout, Type type, int64_t headDim = 0) {
      return PackingAttr::get(&getContext(), layout, type, headDim);
    };
    bool cuda = device == DeviceKind::Cuda;
    PackingAttr none, norm = packing(Layout::Rows, f32);
    PackingAttr router = packing(cuda ? Layout::Rows : Layout::Panel, f32);
    PackingAttr panel = packing(cuda ? Layout::Fragments : Layout::Panel, matrix);
    PackingAttr gateUp = packing(cuda ? Layout::FragmentsGateUp : Layout::PanelGateUp, matrix);
    Value weight = use.get();
    return TypeSwitch<Operation *, PackingAttr>(use.getOwner())
        .Case<EmbedOp>([&](auto) { return packing(Layout::Rows, matrix); })
        .Case<RmsNormOp>([&](auto) { return norm; })
        .Case<LinearResidualOp, ExpertsOp>([&](auto) { return panel; })
        .Case<LinearOp>([&](LinearOp op) {
          bool routes = llvm::any_of(op->getUsers(), llvm::IsaPred<RouteOp>);
          return routes ? router : panel;
        })
        .Case<HeadOp>([&](HeadOp op) { return weight == op.getNorm() ? norm : panel; })
        .Case<QkvOp>([&](QkvOp op) {
          if (weight == op.getNorm())
            return norm;
          if (cuda) // finishing the heads is another kernel's work
            return panel;
          int64_t headDim = headDimOf(op);
          return headDim ? packing(Layout::PanelHeads, matrix, headDim) : none;
        })
        .Case<MlpBlockOp>([&](MlpBlockOp op) {
          if (weight == op.getNorm())
            return norm;
          return weight == op.getGateUp() ? gateUp : panel;
        })
        .Case<MoeBlockOp>([&](MoeBlockOp op) {
          if (weight == op.getNorm())
            return norm;
          if (weight == op.getRouter())
            return router;
          return weight == op.getGateUp() ? gateUp : panel;
        })
        .Default(none);
  }

  // The size of the heads that the result is made of: the cache knows it.
  int64_t headDimOf(QkvOp qkv) {
    for (Operation *user : qkv->getUsers())
      if (auto block = dyn_cast<AttentionBlockOp>(user))
        return symbols->lookup<CacheOp>(block.getCache()).getHeadDim();
    return 0;
  }

  // The symbol of the bytes of `weight` packed so: itself, where it was not packed otherwise yet.
  WeightOp packedVariant(WeightOp weight, PackingAttr packing) {
    if (!weight.getPacking())
      weight.setPackingAttr(packing);
    if (weight.getPackingAttr() == packing)
      return weight;
    WeightOp &variant = variants[{weight, packing}];
    if (!variant) {
      variant = weight.clone();
      variant.setPackingAttr(packing);
      variant.setSymName((weight.getSymName() + "." + stringifyLayout(packing.getLayout())).str());
      symbols->insert(variant, std::next(Block::iterator(weight)));
    }
    return variant;
  }

  std::optional<SymbolTable> symbols;
  DenseMap<std::pair<Operation *, Attribute>, WeightOp> variants;
};
} // namespace
