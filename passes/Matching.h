// What the fusion passes have in common: recognizing pieces of a model.
#ifndef MOE_PASSES_MATCHING_H
#define MOE_PASSES_MATCHING_H

#include "dialects/moe/MoeOps.h"
#include "mlir/IR/PatternMatch.h"

namespace moe {

// The op that makes `value` for a single user, if it is an `Op`: one that a fusion may swallow.
template <typename Op> Op soleProducer(mlir::Value value) {
  return value.hasOneUse() ? value.getDefiningOp<Op>() : Op();
}

// down(swiglu(gate(x), up(x))), whose result has one user, and its values in between no other.
struct GatedMlp {
  LinearOp gate, up, down;

  static mlir::FailureOr<GatedMlp> match(mlir::Value result);
  mlir::Value x() { return gate.getX(); }
};

// Applies the patterns to the whole module until none fits, and erases what thereby lost its users.
mlir::LogicalResult fuse(mlir::Operation *module, mlir::RewritePatternSet &&patterns);

} // namespace moe

#endif
