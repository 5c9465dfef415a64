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

// Calls `use` with the rows of a matrix of a weight, as the checkpoint has them: `atOnce` from
// `first` on, or those that are left. The calls come from the threads of the weight's context. The
// error, if there is one, is the first that came.
llvm::Error forRows(WeightOp weight, int64_t matrix, int64_t atOnce, const TensorSource &tensors,
                    llvm::function_ref<llvm::Error(int64_t first, const Matrix &rows)> use);

// `step`: a function of fused ops, as moe-fuse leaves it. Returns the logits [R, vocabulary] if
// they are wanted, else nothing of use. Memory: the activations of a layer, and of a weight a few
// rows a thread. The threads are those of the
// module's context.
llvm::Expected<Matrix> runForward(mlir::func::FuncOp step, const TensorSource &tensors,
                                  const ForwardInputs &inputs, const ProductVisitor &visit);

} // namespace moe

#endif
