// The moe dialect and its attributes.
#ifndef MOE_DIALECTS_MOE_MOEDIALECT_H
#define MOE_DIALECTS_MOE_MOEDIALECT_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "runtime/weights/Format.h"

namespace moe {
// The format of elements of a type: f32, bf16, f16, f8E4M3FN, i8 or i4.
mlir::FailureOr<Storage> storageOf(mlir::Type type);
mlir::Type typeOf(Storage storage, mlir::MLIRContext *context);
} // namespace moe

#include "dialects/moe/MoeDialect.h.inc"
#include "dialects/moe/MoeEnums.h.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/moe/MoeAttrs.h.inc"

namespace moe {
// A format inside of another attribute: "bf16", "i4 group 128 scale f16 zeros".
mlir::ParseResult parseFormatOf(mlir::AsmParser &parser, FormatAttr &format);
void printFormatOf(mlir::AsmPrinter &printer, FormatAttr format);
} // namespace moe

#endif
