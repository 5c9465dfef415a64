// Sizes and texts of inputs and outputs.
#include "runtime/device/TensorSpec.h"

namespace moe {
namespace {

// Above what any machine has, and low enough for sums of many.
constexpr uint64_t kMost = uint64_t(1) << 48;

struct ElementFacts {
  const char *name;
  uint32_t bytes;
};

// In the order of ElementType.
constexpr ElementFacts kElements[] = {{"u8", 1},  {"i32", 4},  {"u32", 4},
                                      {"f16", 2}, {"bf16", 2}, {"f32", 4}};

uint64_t countOf(const Dimension &dim, const Extents &extents) {
  switch (dim.extent) {
  case Extent::Constant:
    return dim.count;
  case Extent::Tokens:
    return uint64_t(extents.tokens);
  case Extent::Rows:
    return uint64_t(extents.rows);
  case Extent::Sequences:
    return uint64_t(extents.sequences);
  case Extent::Pages:
    return uint64_t(extents.pages);
  }
  return kMost; // of a value that the enum lacks
}

} // namespace

std::optional<uint64_t> bytesOf(const TensorSpec &spec, const Extents &extents) {
  uint64_t bytes = kElements[size_t(spec.element)].bytes;
  for (const Dimension &dim : spec.dims)
    if (__builtin_mul_overflow(bytes, countOf(dim, extents), &bytes) || bytes > kMost)
      return std::nullopt;
  return bytes;
}

std::string typeText(const TensorSpec &spec) {
  constexpr const char *symbols[] = {"", "T", "R", "S", "P"}; // in the order of Extent
  std::string text = kElements[size_t(spec.element)].name;
  text += '[';
  for (const Dimension &dim : spec.dims) {
    if (text.back() != '[')
      text += ", ";
    text +=
        dim.extent == Extent::Constant ? std::to_string(dim.count) : symbols[size_t(dim.extent)];
  }
  return text + ']';
}

} // namespace moe
