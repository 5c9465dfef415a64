// Weights of checkpoints as weights of a module.
#include "compiler/import/ModuleBuilder.h"
#include "dialects/moe/MoeOps.h"

using namespace moe;
using namespace mlir;
using llvm::Twine;

Value ModuleBuilder::weight(const Twine &name, const Twine &tensor, ArrayRef<int64_t> shape,
                            bool shared) {
  SmallVector<int64_t> whole(shape);
  TensorBox box{SmallVector<int64_t>(shape.size(), 0), whole};
  return weight(name, shape, Part{tensor.str(), whole, box}, shared);
}

SmallVector<const TensorInfo *> ModuleBuilder::take(const Part &part, bool shared) {
  StringRef name = part.tensor;
  const size_t at = name.find("{}");
  if (at == StringRef::npos)
    return {ledger.take(name, part.shape, part.box, shared)};
  SmallVector<const TensorInfo *> tensors;
  auto inner = [](ArrayRef<int64_t> dims) { return SmallVector<int64_t>(dims.drop_front()); };
  const TensorBox box{inner(part.box.offsets), inner(part.box.sizes)};
  for (int64_t number = 0; number < part.shape.front(); ++number)
    tensors.push_back(
        ledger.take((name.take_front(at) + Twine(number) + name.drop_front(at + 2)).str(),
                    inner(part.shape), box, shared));
  return tensors;
}

Value ModuleBuilder::weight(const Twine &name, ArrayRef<int64_t> shape, const Part &part,
                            bool shared) {
  // Tensors of one type give a weight of that type; f32 holds any mixture of them.
  std::optional<Storage> dtype;
  std::optional<WeightFormat> format; // of all tensors, plain where they differ
  for (const TensorInfo *tensor : take(part, shared)) {
    if (!tensor)
      continue;
    dtype = !dtype || *dtype == tensor->dtype ? tensor->dtype : Storage::F32;
    WeightFormat own;
    if (tensor->encoding && tensor->encoding->inputsFirst == part.transposed)
      own = tensor->encoding->format;
    format = !format || *format == own ? own : WeightFormat();
  }
  Attribute source = SourceAttr::get(builder.getContext(), builder.getStringAttr(part.tensor),
                                     part.box.offsets, part.box.sizes, part.transposed);
  Type element = typeOf(dtype.value_or(Storage::F32), builder.getContext());
  auto type = RankedTensorType::get(shape, element);
  auto op = WeightOp::create(symbols, location, symbols.getStringAttr(name), TypeAttr::get(type),
                             symbols.getArrayAttr(source), PackingAttr(),
                             format && format->quantized()
                                 ? FormatAttr::get(builder.getContext(), *format)
                                 : FormatAttr());
  return LoadWeightOp::create(builder, location, type, FlatSymbolRefAttr::get(op.getSymNameAttr()));
}
