// Names and types of what programs take and give.
#include "dialects/plan/StepSpecs.h"
#include "mlir/IR/Builders.h"

using namespace mlir;

namespace moe::plan {

static TensorSpecAttr makeSpec(MLIRContext *context, const Twine &name, Type element,
                               ArrayRef<int64_t> dims, FlatSymbolRefAttr pool = {}) {
  return TensorSpecAttr::get(context, StringAttr::get(context, name), element, dims, pool);
}

TensorSpecAttr stepInput(MLIRContext *context, InputName name) {
  Type i32 = IntegerType::get(context, 32);
  switch (name) {
  case InputName::Tokens:
    return makeSpec(context, "tokens", i32, {TensorSpecAttr::Tokens});
  case InputName::Positions:
    return makeSpec(context, "positions", i32, {TensorSpecAttr::Tokens});
  case InputName::Sequences:
    return makeSpec(context, "sequences", i32, {TensorSpecAttr::Tokens});
  case InputName::Rows:
    return makeSpec(context, "rows", i32, {TensorSpecAttr::Rows});
  case InputName::ImageRows:
    return makeSpec(context, "image_rows", i32, {TensorSpecAttr::Tokens});
  case InputName::Sampling:
    return makeSpec(context, "sampling", IntegerType::get(context, 8, IntegerType::Unsigned),
                    {TensorSpecAttr::Rows, 40}); // a RowSampling (runtime/device/RowSampling.h)
  }
  llvm_unreachable("no such input");
}

TensorSpecAttr blockTable(FlatSymbolRefAttr pool, StringRef device) {
  return makeSpec(pool.getContext(), nameWithoutDevice(pool.getValue(), device) + "_table",
                  IntegerType::get(pool.getContext(), 32),
                  {TensorSpecAttr::Sequences, TensorSpecAttr::Pages}, pool);
}

TensorSpecAttr stepMasks(MLIRContext *context, int64_t vocabulary) {
  return makeSpec(context, "masks", IntegerType::get(context, 32, IntegerType::Unsigned),
                  {TensorSpecAttr::Sequences, (vocabulary + 31) / 32});
}

TensorSpecAttr stepLogits(MLIRContext *context, int64_t vocabulary) {
  return makeSpec(context, "logits", Float32Type::get(context), {TensorSpecAttr::Rows, vocabulary});
}

TensorSpecAttr stepIds(MLIRContext *context) {
  return makeSpec(context, "ids", IntegerType::get(context, 32), {TensorSpecAttr::Rows});
}

TensorSpecAttr stepHidden(MLIRContext *context, int64_t channels) {
  return makeSpec(context, "hidden", Float32Type::get(context), {TensorSpecAttr::Rows, channels});
}

TensorSpecAttr stepImages(MLIRContext *context, int64_t most, int64_t channels) {
  return makeSpec(context, "images", Float32Type::get(context), {most, channels});
}

TensorSpecAttr visionTiles(MLIRContext *context, int64_t size) {
  return makeSpec(context, "tiles", IntegerType::get(context, 8, IntegerType::Unsigned),
                  {TensorSpecAttr::Tokens, size, size, 3});
}

TensorSpecAttr visionImageRows(MLIRContext *context, int64_t rowsPerTile, int64_t channels) {
  return makeSpec(context, "image_rows", Float32Type::get(context),
                  {TensorSpecAttr::Tokens, rowsPerTile, channels});
}

} // namespace moe::plan
