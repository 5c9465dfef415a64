// The passes of moec: see Passes.td for what they do, Pipeline.h for their order.
#ifndef MOE_PASSES_PASSES_H
#define MOE_PASSES_PASSES_H

#include "dialects/plan/PlanDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "passes/TargetFormats.h"
#include "runtime/weights/Format.h"

namespace moe {

#define GEN_PASS_DECL
#include "passes/Passes.h.inc"
#define GEN_PASS_REGISTRATION
#include "passes/Passes.h.inc"

// Packs for the target that the option `target` names among those that `find` knows.
std::unique_ptr<mlir::Pass> createPackWeights(FindTarget find,
                                              const PackWeightsOptions &options = {});

} // namespace moe

#endif
