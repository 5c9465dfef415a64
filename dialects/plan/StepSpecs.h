// The inputs and outputs of step programs, as runtimes know them by name.
// runtime/session/StepBinding.h says what each of them means.
#ifndef MOE_DIALECTS_PLAN_STEPSPECS_H
#define MOE_DIALECTS_PLAN_STEPSPECS_H

#include "dialects/plan/PlanDialect.h"

namespace moe::plan {

// Those that are not of a pool.
enum class InputName { Tokens, Positions, Sequences, Rows, Sampling };

TensorSpecAttr stepInput(mlir::MLIRContext *context, InputName name);
// Called "chunked_table" of the pool @cpu.chunked of "cpu".
TensorSpecAttr blockTable(mlir::FlatSymbolRefAttr pool, llvm::StringRef device);
// Masks of a vocabulary, which stay from step to step.
TensorSpecAttr stepMasks(mlir::MLIRContext *context, int64_t vocabulary);
TensorSpecAttr stepLogits(mlir::MLIRContext *context, int64_t vocabulary);
TensorSpecAttr stepIds(mlir::MLIRContext *context);
TensorSpecAttr stepHidden(mlir::MLIRContext *context, int64_t channels);

} // namespace moe::plan

#endif
