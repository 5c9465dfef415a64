// The passes of moec: see Passes.td for what they do, Pipeline.h for their order.
#ifndef MOE_PASSES_PASSES_H
#define MOE_PASSES_PASSES_H

#include "dialects/moe/Storage.h"
#include "dialects/plan/PlanDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace moe {

enum class DeviceKind { Cpu, Cuda };

#define GEN_PASS_DECL
#include "passes/Passes.h.inc"
#define GEN_PASS_REGISTRATION
#include "passes/Passes.h.inc"

} // namespace moe

#endif
