// Weights as the fusion passes handle them: found by their loads, joined, replaced.
#ifndef MOE_PASSES_WEIGHTS_H
#define MOE_PASSES_WEIGHTS_H

#include "dialects/moe/WeightSources.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/PatternMatch.h"

namespace moe {

// A loaded weight, or nothing.
struct Weight {
  WeightOp op;

  explicit operator bool() const { return bool(op); }
  llvm::StringRef name() const { return WeightOp(op).getSymName(); }
  mlir::RankedTensorType type() const {
    return llvm::cast<mlir::RankedTensorType>(WeightOp(op).getType());
  }
  int64_t dim(unsigned i) const { return type().getDimSize(i); }

  // The sources of all elements, one after the other.
  Sources sources() const;
};

// What a new weight is made of: its sources, joined along a dimension.
struct Joined {
  Sources sources;
  int64_t along = 0;
};

// Of [n, a, k], [n, b, k], ... the [n, a + b + .., k] that has the rows of all for each of n.
Joined joinRows(llvm::ArrayRef<Weight> parts);

// True where all are there and have the same element type.
bool sameElements(llvm::ArrayRef<Weight> weights);

// The weights and caches of a module. Lives as long as a pass, which adds weights only through it.
class Weights {
public:
  explicit Weights(mlir::ModuleOp module) : symbols(module) {}

  // The weight that `value` loads; nothing where it has a packing, since its bytes are fixed then.
  Weight loadedBy(mlir::Value value);
  CacheOp cache(mlir::FlatSymbolRefAttr name) { return symbols.lookup<CacheOp>(name.getAttr()); }

  // Adds a weight, beside `parts` and named after what the names of `relatives`, by default the
  // parts, have in common and `suffix`, and loads it at the rewriter's insertion point. Its element
  // type is that of the parts, and so is its encoding where they have the same.
  LoadWeightOp addAndLoad(mlir::PatternRewriter &rewriter, mlir::Location loc,
                          llvm::ArrayRef<Weight> parts, llvm::StringRef suffix,
                          llvm::ArrayRef<int64_t> shape, const Joined &joined,
                          llvm::ArrayRef<Weight> relatives = {});

private:
  mlir::SymbolTable symbols;
};

} // namespace moe

#endif
