// The plan dialect, its types and ops.
#ifndef MOE_DIALECTS_PLAN_PLANDIALECT_H
#define MOE_DIALECTS_PLAN_PLANDIALECT_H

#include "dialects/moe/MoeDialect.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

namespace moe::plan {

// Devices are named "cpu" and "cuda"; all but the first are GPUs.
inline bool isGpu(llvm::StringRef device) { return device != "cpu"; }

// What the places of tensors and buffers are multiples of: the cache lines and vectors of a CPU,
// and what a GPU's allocator gives.
inline int64_t alignmentOf(llvm::StringRef device) { return isGpu(device) ? 256 : 64; }

} // namespace moe::plan

#include "dialects/plan/PlanDialect.h.inc"
#include "dialects/plan/PlanEnums.h.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/plan/PlanTypes.h.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/plan/PlanAttrs.h.inc"
#define GET_OP_CLASSES
#include "dialects/plan/PlanOps.h.inc"

#endif
