// Tensors in memory, for tests of what reads weights.
#ifndef MOE_RUNTIME_WEIGHTS_TESTTENSORS_H
#define MOE_RUNTIME_WEIGHTS_TESTTENSORS_H

#include "runtime/weights/TensorSource.h"

#include <algorithm>
#include <cassert>
#include <map>

namespace moe::test {

class TestTensors final : public TensorSource {
public:
  // Gives the elements from `begin` on.
  using Reader = std::function<Status(uint64_t begin, std::span<float> out)>;

  // Adds a float32 tensor of values, or replaces one of that name.
  std::vector<float> &add(const std::string &name, std::vector<int64_t> shape,
                          std::vector<float> values) {
    Tensor &tensor = add(name, std::move(shape));
    tensor.values = std::move(values);
    return tensor.values;
  }
  void add(const std::string &name, std::vector<int64_t> shape, Reader reader) {
    add(name, std::move(shape)).reader = std::move(reader);
  }

  // Of a tensor that is there; the values of one that was added with values.
  TensorInfo &info(const std::string &name) { return infos[byName.at(name).index]; }
  std::vector<float> &values(const std::string &name) { return byName.at(name).values; }

private:
  struct Tensor {
    size_t index; // of infos
    std::vector<float> values;
    Reader reader;
  };

  Tensor &add(const std::string &name, std::vector<int64_t> shape) {
    auto [found, isNew] = byName.try_emplace(name, Tensor{infos.size(), {}, {}});
    TensorInfo made;
    made.name = name;
    made.dtype = Storage::F32;
    made.dtypeName = "F32";
    made.shape = std::move(shape);
    if (isNew) {
      TensorSource::add(std::move(made));
    } else {
      made.elements = 1;
      for (int64_t dim : made.shape)
        made.elements *= uint64_t(dim);
      infos[found->second.index] = std::move(made);
      found->second.reader = nullptr;
    }
    return found->second;
  }

  Status readElements(const TensorInfo &tensor, uint64_t begin,
                      std::span<float> out) const override {
    const Tensor &from = byName.at(tensor.name);
    if (from.reader)
      return from.reader(begin, out);
    assert(begin + out.size() <= from.values.size());
    std::copy_n(from.values.begin() + int64_t(begin), out.size(), out.begin());
    return ok();
  }

  std::map<std::string, Tensor> byName;
};

// Another source, whose reads are watched, perhaps by several threads.
class WatchedTensors final : public TensorSource {
public:
  using Watch = std::function<Status(std::string_view name, uint64_t begin, size_t count)>;

  // `tensors` must outlive this. Its companions are not found here.
  WatchedTensors(const TensorSource &tensors, Watch watch)
      : source(tensors), watch(std::move(watch)) {
    for (const TensorInfo &tensor : tensors.tensors())
      add(tensor);
  }

private:
  Status readElements(const TensorInfo &tensor, uint64_t begin,
                      std::span<float> out) const override {
    MOE_TRY(watch(tensor.name, begin, out.size()));
    return source.read(tensor.name, begin, out);
  }

  const TensorSource &source;
  Watch watch;
};

} // namespace moe::test

#endif
