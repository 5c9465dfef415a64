// What ops read weights for.
#ifndef MOE_DIALECTS_MOE_WEIGHTUSE_H
#define MOE_DIALECTS_MOE_WEIGHTUSE_H

#include "dialects/moe/MoeDialect.h"
#include "mlir/IR/Value.h"

namespace moe {

/// What a weight of the model is for. Norm: also biases, and the rows that the vision tower adds.
/// Dense: the MLPs of layers without experts. Vision: the matrices of the tower and its projector.
enum class WeightKind { Norm, Router, Embedding, Attention, Shared, Routed, Dense, Head, Vision };

/// An operand of an op that is a weight: [.., n, k] of matrices, or [k] of a norm.
struct WeightUse {
  mlir::OpOperand *operand;
  WeightKind kind;
  WeightRole role;
  int64_t headDim = 0; // of WeightRole::Heads: 0 where no cache says it

  /// Whether activations of k channels are multiplied with the matrices, as they are not with norms
  /// and embeddings.
  bool isMultiplied() const { return kind != WeightKind::Norm && kind != WeightKind::Embedding; }
};

} // namespace moe

#endif
