// Finds tensors and converts their elements.
#include "compiler/import/TensorSource.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

#include <bit>
#include <cassert>
#include <cstring>

using namespace moe;

//===----------------------------------------------------------------------===//
// Element types
//===----------------------------------------------------------------------===//

// The loops load by memcpy, as a file may put a tensor at any address, and have no branches, so
// that they become vector code on every target.

static uint16_t load16(const std::byte *in) {
  uint16_t bits;
  std::memcpy(&bits, in, sizeof(bits));
  return bits;
}

static float floatOfF16(uint16_t half) {
  // The exponent's bias is mended by a multiplication, which also normalises subnormal numbers.
  uint32_t magnitude = uint32_t(half & 0x7fff) << 13;
  uint32_t bits = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  bits |= magnitude >= 0x0f800000 ? 0x7f800000 : 0; // infinity and NaN
  return std::bit_cast<float>(bits | uint32_t(half & 0x8000) << 16);
}

void moe::toFloat(DType dtype, const std::byte *in, uint64_t count, float *out) {
  switch (dtype) {
  case DType::F32:
    if (count)
      std::memcpy(out, in, count * sizeof(float));
    return;
  case DType::BF16:
    for (uint64_t i = 0; i < count; ++i)
      out[i] = std::bit_cast<float>(uint32_t(load16(in + 2 * i)) << 16);
    return;
  case DType::F16:
    for (uint64_t i = 0; i < count; ++i)
      out[i] = floatOfF16(load16(in + 2 * i));
    return;
  case DType::Other:
    assert(false && "only float tensors are read");
  }
}

uint16_t moe::roundToBf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000)
    return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t moe::roundToF16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000)
    return sign | 0x7e00;
  if (bits >= 0x477ff000) // rounds to 65536 or more
    return sign | 0x7c00;
  if (bits < 0x38800000) // subnormal: adding 0.5 leaves the value in units of 2^-24 in the mantissa
    return sign | uint16_t(std::bit_cast<uint32_t>(std::bit_cast<float>(bits) + 0.5f) - 0x3f000000);
  return sign | uint16_t((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

//===----------------------------------------------------------------------===//
// Tensors by name
//===----------------------------------------------------------------------===//

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
  if (tensor->dtype == DType::Other)
    return llvm::createStringError("tensor " + name + " is " + tensor->dtypeName +
                                   ", expected F32, F16 or BF16");
  if (begin > tensor->elements || count > tensor->elements - begin)
    return llvm::createStringError("reads " + llvm::Twine(count) + " elements from " +
                                   llvm::Twine(begin) + " of tensor " + name + ", which has " +
                                   llvm::Twine(tensor->elements));
  return readElements(*tensor, begin, count, out);
}
