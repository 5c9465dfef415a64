// Registers the plan dialect's ops, types and attributes.
#include "dialects/plan/PlanDialect.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

// What dimensions -1, -2, -3 and -4 are called (TensorSpecAttr::Extent).
static constexpr llvm::StringLiteral kExtents = "TRSP";

// A layout by its name in plans.
static ParseResult parseLayout(AsmParser &parser, moe::Layout &layout) {
  StringRef name;
  llvm::SMLoc at = parser.getCurrentLocation();
  if (parser.parseKeyword(&name))
    return failure();
  std::optional<moe::Layout> found = moe::layoutNamed(name);
  if (!found)
    return parser.emitError(at) << "unknown layout '" << name << "', expected one of "
                                << llvm::join(moe::layoutNames(), ", ");
  layout = *found;
  return success();
}

static void printLayout(AsmPrinter &printer, moe::Layout layout) { printer << moe::nameOf(layout); }

ParseResult moe::plan::parseSpec(AsmParser &parser, StringAttr &name, Type &element,
                                 SmallVector<int64_t> &dims, FlatSymbolRefAttr &pool) {
  auto parseDim = [&]() -> ParseResult {
    int64_t constant;
    llvm::SMLoc at = parser.getCurrentLocation();
    if (OptionalParseResult parsed = parser.parseOptionalInteger(constant); parsed.has_value()) {
      dims.push_back(constant);
      if (succeeded(*parsed) && constant < 1)
        return parser.emitError(at) << "expected a positive dimension, not " << constant;
      return *parsed;
    }
    StringRef symbol;
    if (parser.parseKeyword(&symbol))
      return failure();
    const size_t found = kExtents.find(symbol);
    if (symbol.size() != 1 || found == StringRef::npos)
      return parser.emitError(at) << "expected a number, T, R, S or P as a dimension, not '"
                                  << symbol << "'";
    dims.push_back(-1 - int64_t(found));
    return success();
  };
  std::string text; // as an attribute, the type behind the colon would be its own
  if (parser.parseString(&text) || parser.parseColon() || parser.parseType(element) ||
      parser.parseCommaSeparatedList(AsmParser::Delimiter::Square, parseDim))
    return failure();
  name = parser.getBuilder().getStringAttr(text);
  return succeeded(parser.parseOptionalKeyword("of")) ? parser.parseAttribute(pool)
                                                      : ParseResult(success());
}

void moe::plan::printSpec(AsmPrinter &printer, StringAttr name, Type element,
                          ArrayRef<int64_t> dims, FlatSymbolRefAttr pool) {
  printer << name << " : " << element << "[";
  llvm::interleaveComma(dims, printer, [&](int64_t dim) {
    if (dim < 0)
      printer << kExtents[size_t(-1 - dim)];
    else
      printer << dim;
  });
  printer << "]";
  if (pool)
    printer << " of " << pool;
}

LogicalResult moe::plan::TensorSpecAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                                StringAttr name, Type element,
                                                ArrayRef<int64_t> dims, FlatSymbolRefAttr pool) {
  if (name.empty())
    return emitError() << "an input or output needs a name";
  const bool known = element.isUnsignedInteger(8) || element.isSignlessInteger(32) ||
                     element.isUnsignedInteger(32) || element.isF16() || element.isBF16() ||
                     element.isF32();
  if (!known)
    return emitError() << name << " has elements of " << element
                       << ", expected ui8, i32, ui32, f16, bf16 or f32";
  for (auto [i, dim] : llvm::enumerate(dims)) {
    if (dim == 0 || dim < Pages)
      return emitError() << name << " has dimension " << dim;
    if (i > 0 && (dim == Tokens || dim == Rows))
      return emitError() << name << " has " << kExtents[size_t(-1 - dim)]
                         << " in a place that is not its first";
  }
  if (pool && (!element.isSignlessInteger(32) || dims != ArrayRef<int64_t>{Sequences, Pages}))
    return emitError() << name << " is the block table of " << pool << ", expected i32[S, P]";
  return success();
}

#include "dialects/plan/PlanDialect.cpp.inc"
#include "dialects/plan/PlanEnums.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/plan/PlanTypes.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/plan/PlanAttrs.cpp.inc"

void moe::plan::PlanDialect::initialize() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "dialects/plan/PlanTypes.cpp.inc"
      >();
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/plan/PlanAttrs.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/plan/PlanOps.cpp.inc"
      >();
}
