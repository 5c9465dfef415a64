// Reads a weight from the tensors of a checkpoint that it is made of.
#ifndef MOE_DIALECTS_MOE_WEIGHTSOURCES_H
#define MOE_DIALECTS_MOE_WEIGHTSOURCES_H

#include "dialects/moe/MoeOps.h"

#include <functional>

namespace moe {

/// The tensors of a checkpoint, by name. Both functions report what is wrong themselves.
struct TensorReader {
  /// The shape of a tensor; fails if there is none of that name.
  std::function<mlir::FailureOr<llvm::SmallVector<int64_t>>(llvm::StringRef tensor)> shape;

  /// Fills `out` with consecutive elements, as float, from row-major index `begin` on. Only called
  /// for elements that the tensor's shape has.
  std::function<mlir::LogicalResult(llvm::StringRef tensor, int64_t begin,
                                    llvm::MutableArrayRef<float> out)>
      read;
};

/// Fills `out` with the elements of one source of `weight`, in row-major order: as many as the
/// product of its sizes. Diagnostics go to `weight`. Weights of many experts are large, and their
/// sources can be read one at a time.
mlir::LogicalResult gatherSource(WeightOp weight, SourceAttr source, const TensorReader &tensors,
                                 llvm::MutableArrayRef<float> out);

/// Fills `out` with all elements of `weight`, in row-major order, as the checkpoint has them: not
/// rounded to the weight's type, and not packed.
mlir::LogicalResult gatherWeight(WeightOp weight, const TensorReader &tensors,
                                 llvm::MutableArrayRef<float> out);

} // namespace moe

#endif
