// From the dialect's types and attributes to runtime/weights.
#include "dialects/plan/Packing.h"
#include "runtime/Status.h"

using namespace mlir;

namespace moe {

FailureOr<WeightLayout> layoutOf(RankedTensorType type, plan::PackingAttr packing,
                                 llvm::function_ref<InFlightDiagnostic()> emitError) {
  const auto fail = [&](const Twine &why) -> FailureOr<WeightLayout> {
    if (emitError)
      return emitError() << why;
    return failure();
  };
  if (!type.hasStaticShape())
    return fail("has a dynamic shape");
  Result<WeightLayout> layout = WeightLayout::create(
      type.getShape(), packing.getFormat().getFormat(), packing.getLayout(), packing.getHeadDim());
  if (!layout)
    return fail(layout.error().message);
  return *layout;
}

int64_t packedBytes(RankedTensorType type, plan::PackingAttr packing) {
  FailureOr<WeightLayout> layout = layoutOf(type, packing);
  assert(succeeded(layout) && "the packing does not fit the type");
  return layout->bytes();
}

} // namespace moe
