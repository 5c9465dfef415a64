// What a plan stores matrices, activations that feed products, and KV caches as.
#ifndef MOE_DIALECTS_MOE_STORAGE_H
#define MOE_DIALECTS_MOE_STORAGE_H

#include <cstdint>
#include <string>

namespace moe {

// F16 is for the caches of GPUs and for scales; F8E4M3 (OCP FP8, without infinities, 448 the
// largest), I8 and I4 are for weights, and I8 is for the caches of CPUs too.
enum class Storage { F32, BF16, F16, F8E4M3, I8, I4 };

inline int64_t bitsOf(Storage s) {
  switch (s) {
  case Storage::F32:
    return 32;
  case Storage::BF16:
  case Storage::F16:
    return 16;
  case Storage::F8E4M3:
  case Storage::I8:
    return 8;
  case Storage::I4:
    return 4;
  }
  return 0;
}
inline int64_t bytesOf(Storage s) { return bitsOf(s) / 8; } // not of I4
inline const char *nameOf(Storage s) {
  switch (s) {
  case Storage::F32:
    return "f32";
  case Storage::BF16:
    return "bf16";
  case Storage::F16:
    return "f16";
  case Storage::F8E4M3:
    return "fp8";
  case Storage::I8:
    return "int8";
  case Storage::I4:
    return "int4";
  }
  return "";
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
  bool zeros = false; // of I4: a zero point for each group, a byte of 0 to 16

  bool quantized() const { return group != 0; }
  // The zero of a format without zeros.
  int64_t zero() const { return element == Storage::I8 ? 128 : element == Storage::I4 ? 8 : 0; }
  bool operator==(const WeightFormat &) const = default;
};

// "bf16", "int4-g128-f16", "int4-g32-bf16-z": for names of kernels and for people.
inline std::string nameOf(const WeightFormat &f) {
  std::string name = nameOf(f.element);
  if (f.quantized())
    name += "-g" + std::to_string(f.group) + "-" + nameOf(f.scale) + (f.zeros ? "-z" : "");
  return name;
}

} // namespace moe

#endif
