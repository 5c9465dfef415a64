// The inputs and outputs of programs, as runtimes know them by name. runtime/session/StepBinding.h
// says what each of them means.
#ifndef MOE_DIALECTS_PLAN_STEPSPECS_H
#define MOE_DIALECTS_PLAN_STEPSPECS_H

#include "dialects/plan/PlanDialect.h"

namespace moe::plan {

// Those that are not of a pool.
enum class InputName { Tokens, Positions, Sequences, Rows, Sampling, ImageRows };

TensorSpecAttr stepInput(mlir::MLIRContext *context, InputName name);
// Called "chunked_table" of the pool @cpu.chunked of "cpu".
TensorSpecAttr blockTable(mlir::FlatSymbolRefAttr pool, llvm::StringRef device);
// Masks of a vocabulary, which stay from step to step.
TensorSpecAttr stepMasks(mlir::MLIRContext *context, int64_t vocabulary);
TensorSpecAttr stepLogits(mlir::MLIRContext *context, int64_t vocabulary);
TensorSpecAttr stepIds(mlir::MLIRContext *context);
TensorSpecAttr stepHidden(mlir::MLIRContext *context, int64_t channels);
// Rows of pictures, of which InputName::ImageRows says which token takes which. `most`: tokens of
// the largest step, in all of a device's programs alike.
TensorSpecAttr stepImages(mlir::MLIRContext *context, int64_t most, int64_t channels);

// Of programs of kind vision: pixels of tiles, `size` by `size`, and their rows.
TensorSpecAttr visionTiles(mlir::MLIRContext *context, int64_t size);
TensorSpecAttr visionImageRows(mlir::MLIRContext *context, int64_t rowsPerTile, int64_t channels);

} // namespace moe::plan

#endif
