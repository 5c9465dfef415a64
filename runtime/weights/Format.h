// How numbers are stored: a row of a table for each type of element, and formats of weights.
//
// `Storage` names the type of one number: an element of a weight, an activation, an entry of a KV
// cache, or a scale. What code must know about a type is in its row; only loops that differ from
// type to type, those of the kernels, switch over `Storage`. A `WeightFormat` says how a whole
// weight is stored: as elements of a type, or as codes in groups that share a scale.
//
// README.md says how to add a type.
#ifndef MOE_RUNTIME_WEIGHTS_FORMAT_H
#define MOE_RUNTIME_WEIGHTS_FORMAT_H

#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moe {

template <typename T> class Result; // of runtime/Status.h, for callers of what returns one

// F16 is for scales and for the caches of GPUs; F8E4M3 (OCP FP8, without infinities, 448 the
// largest), I8 and I4 are for weights, and I8 is for the caches of CPUs too.
enum class Storage : uint8_t { F32, BF16, F16, F8E4M3, I8, I4 };
inline constexpr Storage kStorages[] = {Storage::F32,    Storage::BF16, Storage::F16,
                                        Storage::F8E4M3, Storage::I8,   Storage::I4};

// A row of the table. A code stands for decode(code, zero) * scale. Integers are in offset binary:
// codes of `bits` bits without a sign, of which `zero` stands for 0 unless a group has a zero of
// its own. The zero is of no account for other types.
struct StorageInfo {
  const char *name;    // in plans, names of kernels, and options: "int4"
  int64_t bits;        // of an element
  int64_t unitColumns; // neighbouring columns that lie together in a panel (Layout.h)
  // The bits of the number nearest to a value, ties to even. What is too large becomes infinite, or
  // the largest code; NaN stays NaN, which codes may not be made of.
  uint32_t (*encode)(float value, int64_t zero);
  float (*decode)(uint32_t bits, int64_t zero);
  bool weights = true;   // whether elements of weights may be of this type
  bool codes = false;    // whether elements are codes, which come in groups that share a scale
  bool integers = false; // whether codes are integers
  int64_t zero = 0;      // of groups without a zero of their own
  int64_t mostZero = 0;  // the largest zero that a group may have; 0: groups have none of their own
  float low = 0, high = 0; // what quantization uses of the numbers that codes stand for
};
const StorageInfo &infoOf(Storage storage);
// The type of that name, if there is one.
std::optional<Storage> storageNamed(std::string_view name);

inline const char *nameOf(Storage s) { return infoOf(s).name; }
inline int64_t bitsOf(Storage s) { return infoOf(s).bits; }
inline int64_t bytesOf(Storage s) {
  assert(bitsOf(s) % 8 == 0 && "elements share bytes");
  return bitsOf(s) / 8;
}

// How the elements of a weight are stored. With a group they are codes: `group` neighbouring
// columns of a row share a scale, and where the format has zeros a zero point, and
//
//   element = (code - zero) * scale
//
// Codes of I8 and I4 are unsigned, in offset binary: 0 to 255 and 0 to 15, and the zero of a format
// without zeros is 128 and 8. F8E4M3 has no zeros: element = code * scale.
struct WeightFormat {
  Storage element = Storage::BF16;
  int64_t group = 0; // columns; 0: elements are stored as they are
  Storage scale = Storage::F32;
  bool zeros = false; // a zero point for each group, a byte of 0 to infoOf(element).mostZero

  bool quantized() const { return group != 0; }
  // The zero of a format without zeros.
  int64_t zero() const { return infoOf(element).zero; }
  // Bytes of the scale and zero of a group.
  int64_t headBytes() const { return bytesOf(scale) + (zeros ? 1 : 0); }
  bool operator==(const WeightFormat &) const = default;
};

// "bf16", "int4-g128-f16", "int4-g32-bf16-z": in plans, names of kernels, and for people.
std::string nameOf(const WeightFormat &format);
// The format of such a name. Any text may come; an InvalidArgument says what formats there are.
Result<WeightFormat> weightFormatNamed(std::string_view name);

//===----------------------------------------------------------------------===//
// Conversions, for loops over many elements
//===----------------------------------------------------------------------===//

// All round to the nearest, ties to even, and have selects in the place of branches, so that loops
// over them become vector code. The bits are the same on every machine.

// NaN stays NaN.
inline uint16_t bf16Of(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  return uint16_t((nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float floatOfBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

// NaN stays NaN; what rounds to 65536 or more becomes infinite.
inline uint16_t f16Of(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), m = bits & 0x7fffffff;
  // Adding 0.5 leaves units of 2^-24, which those of a subnormal number are, in the mantissa.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(m) + 0.5f) - 0x3f000000;
  const uint32_t normal = (m - 0x38000000 + 0xfff + (m >> 13 & 1)) >> 13;
  const uint32_t large = m > 0x7f800000 ? 0x7e00 : 0x7c00;
  return uint16_t((bits >> 16 & 0x8000) | (m >= 0x477ff000  ? large
                                           : m < 0x38800000 ? subnormal
                                                            : normal));
}
inline float floatOfF16(uint16_t half) {
  // The product mends the exponent's bias, of subnormal numbers too.
  const uint32_t m = uint32_t(half & 0x7fff) << 13;
  const uint32_t bits = std::bit_cast<uint32_t>(std::bit_cast<float>(m) * 0x1p112f) |
                        (m >= 0x0f800000 ? 0x7f800000 : 0); // infinity and NaN
  return std::bit_cast<float>(bits | uint32_t(half & 0x8000) << 16);
}

// OCP FP8 E4M3: four bits of exponent with a bias of 7, three of mantissa, no infinity, 0x7f and
// 0xff NaN. Larger magnitudes than 448 become 448; `value` is not NaN.
inline uint8_t f8Of(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const float all = std::bit_cast<float>(bits & 0x7fffffff),
              magnitude = all < 448.0f ? all : 448.0f;
  const uint32_t m = std::bit_cast<uint32_t>(magnitude);
  const uint32_t normal = ((m + 0x7ffff + (m >> 20 & 1)) >> 20) - (120 << 3);
  // In units of 2^-9, which are the last place of 2^14.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(magnitude + 16384.0f) - std::bit_cast<uint32_t>(16384.0f);
  return uint8_t((magnitude < 0x1p-6f ? subnormal : normal) | (bits >> 24 & 0x80));
}
inline float floatOfF8(uint8_t code) {
  // Exponent and mantissa in the place of float32's, whose bias is 120 more.
  const uint32_t m = code & 0x7f;
  const float magnitude = std::bit_cast<float>(m << 20) * 0x1p120f;
  const uint32_t bits = m == 0x7f ? 0x7fc00000 : std::bit_cast<uint32_t>(magnitude);
  return std::bit_cast<float>(bits | uint32_t(code & 0x80) << 24);
}

// `count` elements of a type without codes at `in`, of any alignment, as float32.
void toFloat(Storage storage, const std::byte *in, size_t count, float *out);

} // namespace moe

#endif
