// Numbers that the maker of a bundle and its runner both know without storing them: element i of a
// pattern follows from i alone, so a weight of gigabytes takes no room, and its elements can be
// asked for one by one.
#ifndef MOE_TOOLS_GPU_CHECK_PATTERN_H
#define MOE_TOOLS_GPU_CHECK_PATTERN_H

#include "gpu-check/Bundle_generated.h"
#include "runtime/weights/Format.h"

#include <cstring>
#include <vector>

namespace moe::gpucheck {

// After so many elements a pattern begins anew: a prime, so that rows and strips differ.
inline constexpr uint64_t kPatternPeriod = 1048573;

inline Storage storageOf(fb::Element element) {
  return element == fb::Element::BF16  ? Storage::BF16
         : element == fb::Element::F16 ? Storage::F16
                                       : Storage::F32;
}

// The bits of element `i`, evenly spread between -scale and scale. Not of I32.
inline uint32_t patternBits(fb::Element element, uint32_t seed, float scale, uint64_t i) {
  uint64_t z = (uint64_t(seed) << 32) + i % kPatternPeriod + 0x9E3779B97F4A7C15; // splitmix64
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
  z = (z ^ z >> 27) * 0x94D049BB133111EB;
  z ^= z >> 31;
  const float unit = float(int32_t(z >> 40) - (1 << 23)) / (1 << 23); // exact
  return infoOf(storageOf(element)).encode(unit * scale, 0);
}
inline float patternValue(fb::Element element, uint32_t seed, float scale, uint64_t i) {
  return infoOf(storageOf(element)).decode(patternBits(element, seed, scale, i), 0);
}

inline uint64_t bytesOf(fb::Element element) {
  return element == fb::Element::F32 || element == fb::Element::I32 ? 4 : 2;
}

// One period of a pattern, as it lies in memory.
inline std::vector<std::byte> patternPeriod(fb::Element element, uint32_t seed, float scale) {
  const uint64_t size = bytesOf(element);
  std::vector<std::byte> bytes(kPatternPeriod * size);
  for (uint64_t i = 0; i < kPatternPeriod; ++i) {
    const uint32_t bits = patternBits(element, seed, scale, i); // little-endian, as GPUs are
    std::memcpy(&bytes[i * size], &bits, size);
  }
  return bytes;
}

} // namespace moe::gpucheck

#endif
