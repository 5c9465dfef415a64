// The table of element types, and the names of formats.
#include "runtime/weights/Format.h"
#include "runtime/Status.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <iterator>

namespace moe {
namespace {

// Neither a value nor its float is changed by the other types' zero.
uint32_t encodeF32(float value, int64_t) { return std::bit_cast<uint32_t>(value); }
float decodeF32(uint32_t bits, int64_t) { return std::bit_cast<float>(bits); }
uint32_t encodeBf16(float value, int64_t) { return bf16Of(value); }
float decodeBf16(uint32_t bits, int64_t) { return floatOfBf16(uint16_t(bits)); }
uint32_t encodeF16(float value, int64_t) { return f16Of(value); }
float decodeF16(uint32_t bits, int64_t) { return floatOfF16(uint16_t(bits)); }
uint32_t encodeF8(float value, int64_t) {
  assert(!std::isnan(value) && "no NaN is coded");
  return f8Of(value);
}
float decodeF8(uint32_t bits, int64_t) { return floatOfF8(uint8_t(bits)); }
template <int kBits> uint32_t encodeInteger(float value, int64_t zero) {
  assert(!std::isnan(value) && "no NaN is coded");
  constexpr float most = (1 << kBits) - 1;
  return uint32_t(std::clamp(std::nearbyint(value) + float(zero), 0.0f, most));
}
float decodeInteger(uint32_t bits, int64_t zero) { return float(int64_t(bits) - zero); }

// In the order of `Storage`.
constexpr StorageInfo kTable[] = {
    {.name = "f32", .bits = 32, .unitColumns = 1, .encode = encodeF32, .decode = decodeF32},
    {.name = "bf16", .bits = 16, .unitColumns = 2, .encode = encodeBf16, .decode = decodeBf16},
    {.name = "f16",
     .bits = 16,
     .unitColumns = 2,
     .encode = encodeF16,
     .decode = decodeF16,
     .weights = false},
    {.name = "fp8",
     .bits = 8,
     .unitColumns = 2,
     .encode = encodeF8,
     .decode = decodeF8,
     .codes = true,
     .low = -448,
     .high = 448},
    {.name = "int8",
     .bits = 8,
     .unitColumns = 4,
     .encode = encodeInteger<8>,
     .decode = decodeInteger,
     .codes = true,
     .integers = true,
     .zero = 128,
     .low = -127,
     .high = 127},
    {.name = "int4",
     .bits = 4,
     .unitColumns = 4,
     .encode = encodeInteger<4>,
     .decode = decodeInteger,
     .codes = true,
     .integers = true,
     .zero = 8,
     .mostZero = 16,
     .low = -8,
     .high = 7},
};
static_assert(std::size(kTable) == std::size(kStorages));

bool consume(std::string_view &text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix)
    return false;
  text.remove_prefix(prefix.size());
  return true;
}

// Up to the next dash, which goes too.
std::string_view consumeWord(std::string_view &text) {
  const std::string_view word = text.substr(0, text.find('-'));
  text.remove_prefix(std::min(text.size(), word.size() + 1));
  return word;
}

} // namespace

const StorageInfo &infoOf(Storage storage) { return kTable[size_t(storage)]; }

std::optional<Storage> storageNamed(std::string_view name) {
  for (Storage storage : kStorages)
    if (infoOf(storage).name == name)
      return storage;
  return std::nullopt;
}

std::string nameOf(const WeightFormat &f) {
  std::string name = nameOf(f.element);
  if (f.quantized())
    name += "-g" + std::to_string(f.group) + "-" + nameOf(f.scale) + (f.zeros ? "-z" : "");
  return name;
}

Result<WeightFormat> weightFormatNamed(std::string_view name) {
  std::string known;
  for (Storage storage : kStorages)
    if (infoOf(storage).weights)
      known += (known.empty() ? "" : ", ") + std::string(nameOf(storage)) +
               (infoOf(storage).codes ? "-gN-f16" : "");
  const Error unknown{Code::InvalidArgument,
                      "'" + std::string(name) + "' is no format of weights, expected one of " +
                          known + ", with bf16 or f32 for f16 where the scales are so"};
  std::string_view rest = name;
  const std::optional<Storage> element = storageNamed(consumeWord(rest));
  if (!element || !infoOf(*element).weights)
    return unknown;
  WeightFormat format{*element};
  if (infoOf(*element).codes) {
    std::string_view digits = consumeWord(rest);
    if (!consume(digits, "g"))
      return unknown;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), format.group);
    const std::optional<Storage> scale = storageNamed(consumeWord(rest));
    if (error != std::errc() || format.group <= 0 || !scale || infoOf(*scale).codes)
      return unknown;
    format.scale = *scale;
    format.zeros = infoOf(*element).mostZero != 0 && rest == "z";
  }
  // A format has one name: not "int4-g032-f16", not "bf16-".
  if (nameOf(format) != name)
    return unknown;
  return format;
}

void toFloat(Storage storage, const std::byte *in, size_t count, float *out) {
  // The loops load by memcpy, as a file may put a tensor at any address.
  const auto convert = [&](auto floatOf) {
    for (size_t i = 0; i < count; ++i) {
      uint16_t bits;
      std::memcpy(&bits, in + 2 * i, sizeof(bits));
      out[i] = floatOf(bits);
    }
  };
  switch (storage) {
  case Storage::F32:
    if (count)
      std::memcpy(out, in, count * sizeof(float));
    return;
  case Storage::BF16:
    return convert([](uint16_t bits) { return floatOfBf16(bits); });
  case Storage::F16:
    return convert([](uint16_t bits) { return floatOfF16(bits); });
  case Storage::F8E4M3:
  case Storage::I8:
  case Storage::I4:
    assert(false && "codes need scales");
  }
}

} // namespace moe
