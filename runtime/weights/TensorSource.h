// Where weights come from: named tensors whose elements are read as float32, a range at a time, so
// that a checkpoint of any size needs no memory of its own. All that reads weights reads them here.
//
// A TensorSource is constant once made: any number of threads may read.
#ifndef MOE_RUNTIME_WEIGHTS_TENSORSOURCE_H
#define MOE_RUNTIME_WEIGHTS_TENSORSOURCE_H

#include "runtime/Status.h"
#include "runtime/weights/Format.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace moe {

// Codes that the elements of a tensor are made of. Those of a group are neighbours along the
// inputs, which are the last dimension, or the last but one of a tensor that is stored inputs
// first.
struct Encoding {
  WeightFormat format;
  bool inputsFirst = false;

  bool operator==(const Encoding &) const = default;
};

struct TensorInfo {
  std::string name;
  // Of the elements; of scales and zeros that nothing stores, F32. Nothing where files may hold the
  // type and weights may not have it.
  std::optional<Storage> dtype;
  std::string dtypeName; // as in the file: "BF16"
  std::vector<int64_t> shape;
  std::string file; // path of the file that holds it; empty: none does
  uint64_t elements = 0;
  // Where the elements are decoded from codes. The scales can be read as the tensor `name:scale`,
  // and the zeros, of a format that has them, as `name:zero`: their shape is that of the tensor
  // with the inputs divided by the group.
  std::optional<Encoding> encoding;
  // The type of the codes that the elements are decoded from, whether or not a plan can have them.
  std::optional<Storage> codes;

  // Of an element, where it is stored. The tensor has a dtype or codes.
  int64_t storedBits() const { return bitsOf(codes ? *codes : *dtype); }
};

class TensorSource {
public:
  virtual ~TensorSource() = default;

  // In no particular order, but the same at every run. Without scales and zeros.
  std::span<const TensorInfo> tensors() const { return infos; }
  // Null if there is none. Lives as long as the source.
  const TensorInfo *find(std::string_view name) const;

  // The elements begin .. begin + out.size() - 1 of a tensor, row-major. Fails where there is no
  // such tensor or range, and where what is stored cannot be read or means nothing.
  Status read(std::string_view name, uint64_t begin, std::span<float> out) const;

  // The bytes of a tensor, in its dtype and perhaps unaligned; null where there are none to point
  // to.
  virtual const std::byte *data(const TensorInfo &tensor) const { return nullptr; }

protected:
  // The range is inside the tensor, and its dtype is one of elements.
  virtual Status readElements(const TensorInfo &tensor, uint64_t begin,
                              std::span<float> out) const = 0;

  // False if there is a tensor of that name already.
  bool add(TensorInfo tensor);
  // The scales or zeros of a tensor: found and read, but not listed.
  bool addCompanion(TensorInfo tensor);

  std::vector<TensorInfo> infos, companions;

private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return std::hash<std::string_view>()(name); }
  };
  using Indices = std::unordered_map<std::string, size_t, Hash, std::equal_to<>>;
  static bool add(TensorInfo tensor, std::vector<TensorInfo> &list, Indices &indices);

  Indices indices, companionIndices; // by name
};

// "[16, 5120, 16384]".
std::string shapeText(std::span<const int64_t> shape);

} // namespace moe

#endif
