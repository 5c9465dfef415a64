// Runs a fused model in float32 on many tokens, one weight in memory at a time, and shows what goes
// into each product: the activations that calibration is made of.
#ifndef MOE_COMPILER_CALIBRATE_FORWARDPASS_H
#define MOE_COMPILER_CALIBRATE_FORWARDPASS_H

#include "compiler/calibrate/Gptq.h"
#include "dialects/moe/WeightSources.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"

#include <functional>
#include <span>

namespace moe {

// T tokens of any number of sequences; those of a sequence are neighbours, from position 0 on.
struct ForwardInputs {
  std::span<const int32_t> tokens, positions, sequences; // [T]
  std::span<const int32_t> rows;                         // [R] tokens that the head gets
  bool logits = true; // false: what the head would multiply is shown alone
};

// Matrix `matrix` of the weight (0 where it has two dimensions) is about to be multiplied with
// x [tokens, k]; of an expert those are its own tokens, scaled by their scores, perhaps none.
using ProductVisitor = std::function<llvm::Error(WeightOp weight, int64_t matrix, const Matrix &x)>;

// The rows [first, first + rows.rows()) of a matrix of a weight, as the checkpoint has them. Any
// number of threads may call it.
mlir::LogicalResult gatherRows(WeightOp weight, int64_t matrix, int64_t first,
                               const TensorReader &tensors, Matrix &rows);

// `step`: a function of fused ops, as moe-fuse leaves it. Returns the logits [R, vocabulary] if
// they are wanted, else nothing of use. Memory: the activations of a layer, and of a weight a few
// rows a thread. `tensors` report what they find wrong themselves. The threads are those of the
// module's context.
llvm::Expected<Matrix> runForward(mlir::func::FuncOp step, const TensorReader &tensors,
                                  const ForwardInputs &inputs, const ProductVisitor &visit);

} // namespace moe

#endif
