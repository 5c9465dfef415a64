// What a weight is made of: its sources as slices of tensors, in the order of its elements.
#ifndef MOE_DIALECTS_MOE_WEIGHTSOURCES_H
#define MOE_DIALECTS_MOE_WEIGHTSOURCES_H

#include "dialects/moe/MoeOps.h"
#include "runtime/weights/TensorSlice.h"

namespace moe {

using Sources = llvm::SmallVector<SourceAttr>;

/// Sources that have the elements [begin, end) of `weight`, one after the other: as few as whole
/// indices allow.
Sources sourcesOf(WeightOp weight, int64_t begin, int64_t end);

/// The slices that have all elements of `weight` one after the other, each of one tensor of the
/// checkpoint: 256 of a weight that has two numbered sources of 128 tensors.
std::vector<TensorSlice> slicesOf(WeightOp weight);
std::vector<TensorSlice> slicesOf(WeightOp weight, int64_t begin, int64_t end);

/// The tensors of slices, each once, in the order of their first.
std::vector<std::string> tensorsOf(llvm::ArrayRef<TensorSlice> slices);

/// Fills `out` with all elements of `weight`, in row-major order, as the checkpoint has them: not
/// rounded to the weight's type, and not packed. Diagnostics go to `weight`.
mlir::LogicalResult gatherWeight(WeightOp weight, const TensorSource &tensors,
                                 llvm::MutableArrayRef<float> out);

} // namespace moe

#endif
