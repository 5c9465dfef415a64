// Reads a weight from the tensors of a checkpoint that it is made of.
#ifndef MOE_DIALECTS_MOE_WEIGHTSOURCES_H
#define MOE_DIALECTS_MOE_WEIGHTSOURCES_H

#include "dialects/moe/MoeOps.h"
#include "runtime/weights/TensorSlice.h"

namespace moe {

/// The slices whose elements, one after the other, are those of a weight with these sources.
std::vector<TensorSlice> slicesOf(mlir::ArrayAttr sources);

/// Fills `out` with all elements of `weight`, in row-major order, as the checkpoint has them: not
/// rounded to the weight's type, and not packed. Diagnostics go to `weight`.
mlir::LogicalResult gatherWeight(WeightOp weight, const TensorSource &tensors,
                                 llvm::MutableArrayRef<float> out);

} // namespace moe

#endif
