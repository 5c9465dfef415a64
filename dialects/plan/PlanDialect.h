// The plan dialect, its types and ops.
#ifndef MOE_DIALECTS_PLAN_PLANDIALECT_H
#define MOE_DIALECTS_PLAN_PLANDIALECT_H

#include "dialects/moe/MoeDialect.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "runtime/weights/Layout.h"

namespace moe {

// How a packed weight lies in memory.
using Layout = WeightLayout::Kind;

} // namespace moe

namespace moe::plan {

// What the places of tensors and buffers, and the sizes of pages, have to be multiples of: a cache
// line.
inline constexpr int64_t kAlignment = 64;
// What they are given as, on every device: what the allocators of GPUs give.
inline constexpr int64_t kPlaceAlignment = 256;

// "layers.0.qkv" of "cuda.layers.0.qkv": symbols may start with their device's name, so that those
// of several devices can stand in one module.
llvm::StringRef nameWithoutDevice(llvm::StringRef symbol, llvm::StringRef device);

// `"name" : element[dims]`, and `of` a pool: the parameters of #plan.spec.
mlir::ParseResult parseSpec(mlir::AsmParser &parser, mlir::StringAttr &name, mlir::Type &element,
                            llvm::SmallVector<int64_t> &dims, mlir::FlatSymbolRefAttr &pool);
void printSpec(mlir::AsmPrinter &printer, mlir::StringAttr name, mlir::Type element,
               llvm::ArrayRef<int64_t> dims, mlir::FlatSymbolRefAttr pool);

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
