// Finds tensors by name.
#include "runtime/weights/TensorSource.h"

using namespace moe;

std::string moe::shapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t d = 0; d < shape.size(); ++d)
    text += (d ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

const TensorInfo *TensorSource::find(std::string_view name) const {
  if (auto it = indices.find(name); it != indices.end())
    return &infos[it->second];
  auto it = companionIndices.find(name);
  return it == companionIndices.end() ? nullptr : &companions[it->second];
}

bool TensorSource::add(TensorInfo tensor, std::vector<TensorInfo> &list, Indices &indices) {
  if (!indices.try_emplace(tensor.name, list.size()).second)
    return false;
  tensor.elements = 1;
  for (int64_t dim : tensor.shape)
    tensor.elements *= uint64_t(dim);
  list.push_back(std::move(tensor));
  return true;
}

bool TensorSource::add(TensorInfo tensor) { return add(std::move(tensor), infos, indices); }

bool TensorSource::addCompanion(TensorInfo tensor) {
  return add(std::move(tensor), companions, companionIndices);
}

Status TensorSource::read(std::string_view name, uint64_t begin, std::span<float> out) const {
  const auto error = [](std::string text) { return Error{Code::InvalidArgument, std::move(text)}; };
  const TensorInfo *tensor = find(name);
  if (!tensor)
    return error("the checkpoint has no tensor " + std::string(name));
  if (!tensor->dtype)
    return error("tensor " + tensor->name + " is " + tensor->dtypeName +
                 ", expected F32, F16 or BF16");
  if (begin > tensor->elements || out.size() > tensor->elements - begin)
    return error("reads " + std::to_string(out.size()) + " elements from " + std::to_string(begin) +
                 " of tensor " + tensor->name + ", which has " + std::to_string(tensor->elements));
  return readElements(*tensor, begin, out);
}
