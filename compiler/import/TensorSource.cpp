// Finds tensors by name.
#include "compiler/import/TensorSource.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

using namespace moe;

std::string moe::shapeText(llvm::ArrayRef<int64_t> shape) {
  return "[" +
         llvm::join(llvm::map_range(shape, [](int64_t d) { return std::to_string(d); }), ", ") +
         "]";
}

std::string moe::firstTen(llvm::ArrayRef<std::string> items, llvm::StringRef separator) {
  std::string text = llvm::join(items.take_front(10), separator);
  if (items.size() > 10)
    text += (separator + "and " + llvm::Twine(items.size() - 10) + " more").str();
  return text;
}

const TensorInfo *TensorSource::find(llvm::StringRef name) const {
  if (auto it = indices.find(name); it != indices.end())
    return &infos[it->second];
  auto it = companionIndices.find(name);
  return it == companionIndices.end() ? nullptr : &companions[it->second];
}

static bool addTo(std::vector<TensorInfo> &list, llvm::StringMap<size_t> &indices,
                  TensorInfo tensor) {
  if (!indices.try_emplace(tensor.name, list.size()).second)
    return false;
  tensor.elements = 1;
  for (int64_t dim : tensor.shape)
    tensor.elements *= uint64_t(dim);
  list.push_back(std::move(tensor));
  return true;
}

bool TensorSource::add(TensorInfo tensor) { return addTo(infos, indices, std::move(tensor)); }

bool TensorSource::addCompanion(TensorInfo tensor) {
  return addTo(companions, companionIndices, std::move(tensor));
}

llvm::Error TensorSource::read(llvm::StringRef name, uint64_t begin, uint64_t count,
                               float *out) const {
  const TensorInfo *tensor = find(name);
  if (!tensor)
    return llvm::createStringError("the checkpoint has no tensor " + name);
  if (!tensor->dtype)
    return llvm::createStringError("tensor " + name + " is " + tensor->dtypeName +
                                   ", expected F32, F16 or BF16");
  if (begin > tensor->elements || count > tensor->elements - begin)
    return llvm::createStringError("reads " + llvm::Twine(count) + " elements from " +
                                   llvm::Twine(begin) + " of tensor " + name + ", which has " +
                                   llvm::Twine(tensor->elements));
  return readElements(*tensor, begin, count, out);
}
