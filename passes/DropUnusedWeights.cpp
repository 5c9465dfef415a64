// Erases the weights that fusion has joined into others.
#include "dialects/moe/MoeOps.h"
#include "passes/Passes.h"

namespace moe {
#define GEN_PASS_DEF_DROPUNUSEDWEIGHTS
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe;

namespace {
struct DropUnusedWeights : moe::impl::DropUnusedWeightsBase<DropUnusedWeights> {
  void runOnOperation() override {
    // One walk for all weights: SymbolTable::symbolKnownUseEmpty walks the module for each.
    DenseSet<StringAttr> loaded;
    getOperation().walk([&](LoadWeightOp load) { loaded.insert(load.getWeightAttr().getAttr()); });
    for (WeightOp weight : llvm::make_early_inc_range(getOperation().getOps<WeightOp>()))
      if (!loaded.contains(weight.getSymNameAttr()))
        weight.erase();
  }
};
} // namespace
