// Registers the moe dialect's ops and attributes.
#include "dialects/moe/MoeDialect.h"
#include "dialects/moe/MoeOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

namespace moe {

FailureOr<Storage> storageOf(Type type) {
  if (type.isF32())
    return Storage::F32;
  if (type.isBF16())
    return Storage::BF16;
  if (type.isF16())
    return Storage::F16;
  if (isa<Float8E4M3FNType>(type))
    return Storage::F8E4M3;
  if (type.isSignlessInteger(8))
    return Storage::I8;
  if (type.isSignlessInteger(4))
    return Storage::I4;
  return failure();
}

Type typeOf(Storage storage, MLIRContext *context) {
  switch (storage) {
  case Storage::F32:
    return Float32Type::get(context);
  case Storage::BF16:
    return BFloat16Type::get(context);
  case Storage::F16:
    return Float16Type::get(context);
  case Storage::F8E4M3:
    return Float8E4M3FNType::get(context);
  case Storage::I8:
    return IntegerType::get(context, 8);
  case Storage::I4:
    return IntegerType::get(context, 4);
  }
  llvm_unreachable("unknown storage");
}

// bf16, or i4 group 128 scale f16 zeros
static ParseResult parseFormat(AsmParser &parser, Type &element, int64_t &group, Type &scale,
                               bool &zeros) {
  group = 0;
  zeros = false;
  if (parser.parseType(element))
    return failure();
  if (failed(parser.parseOptionalKeyword("group")))
    return success();
  if (parser.parseInteger(group) || parser.parseKeyword("scale") || parser.parseType(scale))
    return failure();
  zeros = succeeded(parser.parseOptionalKeyword("zeros"));
  return success();
}

static void printFormat(AsmPrinter &printer, Type element, int64_t group, Type scale, bool zeros) {
  printer << element;
  if (group)
    printer << " group " << group << " scale " << scale << (zeros ? " zeros" : "");
}

ParseResult parseFormatOf(AsmParser &parser, FormatAttr &format) {
  SMLoc location = parser.getCurrentLocation();
  Type element, scale;
  int64_t group;
  bool zeros;
  if (parseFormat(parser, element, group, scale, zeros))
    return failure();
  format = FormatAttr::getChecked([&] { return parser.emitError(location); }, parser.getContext(),
                                  element, group, scale, zeros);
  return success(bool(format));
}

void printFormatOf(AsmPrinter &printer, FormatAttr format) {
  printFormat(printer, format.getElement(), format.getGroup(), format.getScale(),
              format.getZeros());
}

} // namespace moe

#include "dialects/moe/MoeDialect.cpp.inc"
#include "dialects/moe/MoeEnums.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/moe/MoeAttrs.cpp.inc"

using namespace moe;

LogicalResult SourceAttr::verify(llvm::function_ref<InFlightDiagnostic()> emitError,
                                 StringAttr tensor, ArrayRef<int64_t> offsets,
                                 ArrayRef<int64_t> sizes, bool transposed) {
  bool counts = offsets.size() == sizes.size();
  int64_t end = 0, elements = 1;
  for (auto [offset, size] : llvm::zip(offsets, sizes))
    counts &= offset >= 0 && size >= 0 && !llvm::AddOverflow(offset, size, end) &&
              !llvm::MulOverflow(elements, size, elements);
  if (!counts) // source_c1
    return emitError() << "source of tensor " << tensor << " begins at [" << offsets
                       << "] and has size [" << sizes
                       << "], expected an offset and a size for each dimension, none negative, and "
                          "fewer than 2^63 elements";
  const size_t stacks = tensor.getValue().count("{}");
  if (stacks > 1 || stacks > sizes.size()) // source_c2
    return emitError() << "source of tensor " << tensor << " has " << sizes.size()
                       << " dimensions, expected a name with at most one {}, whose number is the "
                          "first dimension";
  if (transposed && sizes.size() < 2 + stacks) // source_c3
    return emitError() << "source of tensor " << tensor << " transposes " << sizes.size() - stacks
                       << " dimensions, expected two or more";
  return success();
}

bool SourceAttr::isNumbered() const { return getTensor().getValue().contains("{}"); }

int64_t SourceAttr::getNumElements() const { return ShapedType::getNumElements(getSizes()); }

LogicalResult FormatAttr::verify(llvm::function_ref<InFlightDiagnostic()> emitError, Type element,
                                 int64_t group, Type scale, bool zeros) {
  FailureOr<Storage> storage = storageOf(element);
  if (failed(storage))
    return emitError() << "stores elements of " << element
                       << ", expected f32, f16, bf16, f8E4M3FN, i8 or i4";
  bool codes = infoOf(*storage).codes;
  if (codes != (group > 0) || codes != bool(scale))
    return emitError() << "stores " << element << " with group " << group
                       << ", expected a positive group and a scale for f8E4M3FN, i8 and i4, and "
                          "neither for other elements";
  if (codes && !scale.isF32() && !scale.isF16() && !scale.isBF16())
    return emitError() << "has scales of " << scale << ", expected f32, f16 or bf16";
  if (zeros && infoOf(*storage).mostZero == 0)
    return emitError() << "has zeros for " << element << ", expected i4";
  return success();
}

FormatAttr FormatAttr::get(MLIRContext *context, const WeightFormat &f) {
  return get(context, typeOf(f.element, context), f.group,
             f.quantized() ? typeOf(f.scale, context) : Type(), f.zeros);
}

WeightFormat FormatAttr::getFormat() const {
  if (!isQuantized())
    return {*storageOf(getElement())};
  return {*storageOf(getElement()), getGroup(), *storageOf(getScale()), getZeros()};
}

void moe::MoeDialect::initialize() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/moe/MoeAttrs.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/moe/MoeOps.cpp.inc"
      >();
}
