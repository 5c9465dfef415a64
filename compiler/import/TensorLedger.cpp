// Checks that a model and a checkpoint have the same tensors.
#include "compiler/import/TensorLedger.h"
#include "compiler/import/Messages.h"

using namespace moe;
using llvm::Twine;

// All parts of a tensor may have the same problem.
void TensorLedger::report(const Twine &problem) {
  std::string text = problem.str();
  if (reported.insert(text).second)
    problems.push_back(std::move(text));
}

const TensorInfo *TensorLedger::take(llvm::StringRef name, llvm::ArrayRef<int64_t> shape,
                                     TensorBox box, bool shared) {
  const TensorInfo *tensor = tensors.find(name);
  if (!tensor) {
    report("missing tensor " + name + " " + shapeText(shape));
    return nullptr;
  }
  llvm::SmallVector<TensorBox> &boxes = taken[name];
  if (llvm::ArrayRef(tensor->shape) != shape) {
    report("tensor " + name + " is " + shapeText(tensor->shape) + ", expected " + shapeText(shape));
    return nullptr;
  }
  if (!shared)
    boxes.push_back(std::move(box));
  if (!tensor->dtype) {
    report(
        "tensor " + name + " is " + tensor->dtypeName +
        ", expected BF16, F16 or F32, or a quantization_config in config.json that says how it is "
        "quantized");
    return nullptr;
  }
  return tensor;
}

static bool overlap(const TensorBox &a, const TensorBox &b) {
  for (size_t d = 0; d < a.sizes.size(); ++d)
    if (a.offsets[d] + a.sizes[d] <= b.offsets[d] || b.offsets[d] + b.sizes[d] <= a.offsets[d])
      return false;
  return true;
}

void TensorLedger::check(const TensorInfo &tensor, llvm::ArrayRef<TensorBox> boxes) {
  if (boxes.empty()) // it has the wrong shape, or all its boxes are shared
    return;
  uint64_t elements = 0;
  for (size_t i = 0; i < boxes.size(); ++i) {
    uint64_t size = 1;
    for (int64_t dim : boxes[i].sizes)
      size *= uint64_t(dim);
    elements += size;
    for (size_t j = 0; j < i; ++j)
      if (overlap(boxes[i], boxes[j]))
        return report("tensor " + tensor.name + " is used twice");
  }
  if (elements != tensor.elements)
    report("tensor " + tensor.name + " is used in part only");
}

llvm::Error TensorLedger::settle(llvm::function_ref<std::string(llvm::StringRef)> reason,
                                 std::vector<std::string> &ignored) {
  for (const TensorInfo &tensor : tensors.tensors()) {
    auto it = taken.find(tensor.name);
    if (it != taken.end())
      check(tensor, it->second);
    else if (std::string why = reason(tensor.name); !why.empty())
      ignored.push_back(tensor.name + ": " + why);
    else
      report("tensor " + tensor.name + " " + shapeText(tensor.shape) + " is not part of the model");
  }
  if (problems.empty())
    return llvm::Error::success();
  return llvm::createStringError("the tensors do not fit config.json, " + Twine(problems.size()) +
                                 (problems.size() == 1 ? " problem: " : " problems: ") +
                                 firstTen(problems, "; "));
}
