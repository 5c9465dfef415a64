// cuTensorMapEncodeTiled, which needs no context.
#include "runtime/device/ptxsim/DriverCalls.h"
#include "runtime/device/ptxsim/TensorBox.h"

#include <cstring>

namespace moe::ptxsim {

using namespace cuda;

namespace {

struct Element {
  unsigned bytes;
  uint16_t nan, nanHigh; // its NaN, if it has one: see TensorMap
};

std::optional<Element> elementOf(TensorMapType type) {
  switch (type) {
  case TensorMapType::u8:
    return Element{1, 0, 0};
  case TensorMapType::u16:
    return Element{2, 0, 0};
  case TensorMapType::u32:
  case TensorMapType::s32:
    return Element{4, 0, 0};
  case TensorMapType::u64:
  case TensorMapType::s64:
    return Element{8, 0, 0};
  case TensorMapType::f16:
  case TensorMapType::bf16:
    return Element{2, 0x7fff, 0};
  case TensorMapType::f32:
  case TensorMapType::f32Ftz:
  case TensorMapType::tf32:
  case TensorMapType::tf32Ftz:
    return Element{4, 0xffff, 0x7fff};
  case TensorMapType::f64:
    return Element{8, 0xffff, 0x7fff};
  }
  return std::nullopt;
}

CUresult encodeTiled(TensorMapBytes *map, TensorMapType type, uint32_t rank, void *address,
                     const uint64_t *sizes, const uint64_t *strides, const uint32_t *box,
                     const uint32_t *elementStrides, TensorMapInterleave interleave,
                     TensorMapSwizzle swizzle, TensorMapPromotion, TensorMapFill fill) {
  Process &p = process();
  std::lock_guard lock(p.mutex);
  auto refuse = [&](CUresult code, const std::string &why) {
    return p.context ? p.context->fail(code, "cuTensorMapEncodeTiled: " + why) : code;
  };
  auto invalid = [&](const std::string &why) { return refuse(CUresult::invalidValue, why); };
  auto element = elementOf(type);
  if (!element)
    return invalid("an unknown type of elements");
  if (!map || reinterpret_cast<uintptr_t>(map) % TensorMap::align)
    return invalid("the map is not aligned to 64 bytes");
  if (rank == 0 || rank > TensorMap::mostRank)
    return invalid("a tensor of rank " + std::to_string(rank) + ", expected 1 to 5");
  if (interleave != TensorMapInterleave::none)
    return refuse(CUresult::notSupported, "interleaved layouts are not simulated");
  if (unsigned(swizzle) > unsigned(TensorMapSwizzle::bytes128))
    return invalid("an unknown swizzle");
  if (fill == TensorMapFill::nan && !element->nan)
    return invalid("integers cannot be filled with NaN");
  TensorMap result;
  result.rank = rank;
  result.elementBytes = element->bytes;
  result.swizzle = swizzle == TensorMapSwizzle::none ? 0 : 16u << unsigned(swizzle);
  result.fillsNan = fill == TensorMapFill::nan;
  result.nan = element->nan;
  result.nanHigh = element->nanHigh;
  result.address = reinterpret_cast<uintptr_t>(address);
  for (uint32_t d = 0; d < rank; ++d) {
    if (sizes[d] == 0 || sizes[d] > uint64_t(1) << 32)
      return invalid("the size of dimension " + std::to_string(d) + " is " +
                     std::to_string(sizes[d]) + ", expected 1 to 2^32");
    if (sizes[d] > INT32_MAX)
      return refuse(CUresult::notSupported, "dimensions of 2^31 and more are not simulated");
    result.size[d] = uint32_t(sizes[d]);
    result.stride[d] = d ? strides[d - 1] : element->bytes;
    result.box[d] = box[d];
    result.traversal[d] = elementStrides[d];
  }
  if (auto status = result.check(); !status)
    return invalid(status.error().message);
  // How rows that are shorter lie in a swizzled box, no manual says.
  if (result.swizzle && result.count(0) * result.elementBytes != result.swizzle)
    return refuse(CUresult::notSupported,
                  "rows of " + std::to_string(result.count(0) * result.elementBytes) +
                      " bytes with a swizzle of " + std::to_string(result.swizzle) +
                      " are not simulated");
  auto bytes = result.encode();
  std::memcpy(map, bytes.data(), bytes.size());
  return CUresult::success;
}

} // namespace

void fillTensorMaps(DriverApi &api) { api.cuTensorMapEncodeTiled = encodeTiled; }

} // namespace moe::ptxsim
