// The layout that a packing gives a weight of the dialect.
#ifndef MOE_DIALECTS_PLAN_PACKING_H
#define MOE_DIALECTS_PLAN_PACKING_H

#include "dialects/plan/PlanDialect.h"
#include "runtime/weights/Layout.h"

namespace moe {

// Fails where the packing does not fit the type; `emitError` then starts the message.
mlir::FailureOr<WeightLayout>
layoutOf(mlir::RankedTensorType type, plan::PackingAttr packing,
         llvm::function_ref<mlir::InFlightDiagnostic()> emitError = {});

// Bytes that `type` needs when it is packed so; the packing must fit (see layoutOf).
int64_t packedBytes(mlir::RankedTensorType type, plan::PackingAttr packing);

} // namespace moe

#endif
