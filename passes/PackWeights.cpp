// Chooses how the plan stores each weight, from the ops that read it.
#include "dialects/moe/MoeOps.h"
#include "passes/Passes.h"
#include "passes/Recipe.h"
#include "llvm/ADT/StringExtras.h"

namespace moe {
#define GEN_PASS_DEF_PACKWEIGHTS
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
struct PackWeights : moe::impl::PackWeightsBase<PackWeights> {
  using PackWeightsBase::PackWeightsBase;
  PackWeights(FindTarget find, const PackWeightsOptions &options)
      : PackWeightsBase(options), find(std::move(find)) {}

  void runOnOperation() override {
    formats = find ? find(target) : nullptr;
    if (!formats) {
      getOperation().emitError() << "there is no target '" << target << "' to pack weights for";
      return signalPassFailure();
    }
    llvm::Expected<Recipe> parsed = Recipe::parse(weights);
    if (!parsed) {
      getOperation().emitError() << llvm::toString(parsed.takeError());
      return signalPassFailure();
    }
    recipe.emplace(std::move(*parsed));
    if (failed(checkNames()))
      return signalPassFailure();
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
  // Overrides for names that no weight has are mistakes.
  LogicalResult checkNames() {
    std::vector<std::string> names;
    for (WeightOp weight : getOperation().getOps<WeightOp>())
      names.push_back(weight.getSymName().str());
    std::optional<std::string> what = recipe->unmatched(names);
    if (!what)
      return success();
    constexpr size_t shown = 10;
    std::string some = llvm::join(ArrayRef(names).take_front(shown), ", ");
    if (names.size() > shown)
      some += " and " + std::to_string(names.size() - shown) + " more";
    return getOperation().emitError()
           << "the recipe '" << weights << "' has a format for '" << *what
           << "', which is neither a kind of weight (embedding, attention, shared, routed, dense, "
              "head, vision) nor the name of one: "
           << some;
  }

  // Packs the weight as this use wants it. The first use of a weight settles its packing; one that
  // wants another gets a load of another symbol.
  LogicalResult pack(LoadWeightOp load, OpOperand &operand) {
    auto weight = symbols->lookup<WeightOp>(load.getWeight());
    std::optional<WeightUse> use = useOf(operand);
    if (!use) {
      InFlightDiagnostic error = operand.getOwner()->emitOpError()
                                 << "reads weight " << load.getWeightAttr()
                                 << " in a way that has no packing";
      error.attachNote(weight.getLoc()) << "the weight is here";
      return error;
    }
    FailureOr<WeightFormat> format = formatOf(weight, *use);
    if (failed(format))
      return failure();
    auto packing = PackingAttr::get(&getContext(), use->role,
                                    FormatAttr::get(&getContext(), *format), use->headDim);
    if (WeightOp variant = packedVariant(weight, packing); variant != weight) {
      OpBuilder builder(load);
      operand.set(
          LoadWeightOp::create(builder, load.getLoc(), load.getType(), variant.getSymName()));
    }
    return success();
  }

  FailureOr<WeightFormat> formatOf(WeightOp weight, const WeightUse &use) {
    if (use.kind == WeightKind::Norm || use.kind == WeightKind::Router)
      return WeightFormat{Storage::F32};
    std::optional<WeightFormat> encoding;
    if (std::optional<FormatAttr> attr = weight.getEncoding())
      encoding = attr->getFormat();
    int64_t cols = cast<RankedTensorType>(weight.getType()).getShape().back();
    llvm::Expected<WeightFormat> format =
        recipe->choose(use.kind, weight.getSymName(), cols, encoding);
    if (!format)
      return weight.emitError() << llvm::toString(format.takeError());
    if (std::string why = formats->refusal(use.role, *format, cols); !why.empty())
      return weight.emitError() << "weight '" << weight.getSymName() << "' (" << nameOf(use.kind)
                                << ") would be stored as " << nameOf(*format) << ", and " << why;
    return *format;
  }

  // Nothing where no kernels read a weight so.
  static std::optional<WeightUse> useOf(OpOperand &operand) {
    auto user = dyn_cast<WeightUser>(operand.getOwner());
    if (!user)
      return std::nullopt;
    for (const WeightUse &use : user.getWeightUses())
      if (use.operand == &operand && (use.role != WeightRole::Heads || use.headDim))
        return use;
    return std::nullopt;
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
      variant.setSymName(
          (weight.getSymName() + "." + stringifyWeightRole(packing.getRole())).str());
      symbols->insert(variant, std::next(Block::iterator(weight)));
    }
    return variant;
  }

  FindTarget find;
  const TargetFormats *formats = nullptr;
  std::optional<Recipe> recipe;
  std::optional<SymbolTable> symbols;
  DenseMap<std::pair<Operation *, Attribute>, WeightOp> variants;
};
} // namespace

std::unique_ptr<Pass> moe::createPackWeights(FindTarget find, const PackWeightsOptions &options) {
  return std::make_unique<PackWeights>(std::move(find), options);
}
