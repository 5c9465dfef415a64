// What a plan stores matrices, activations that feed products, and KV caches as.
#ifndef MOE_DIALECTS_MOE_STORAGE_H
#define MOE_DIALECTS_MOE_STORAGE_H

#include <cstdint>

namespace moe {

// F16 is for the caches of GPUs alone.
enum class Storage { F32, BF16, F16 };

inline int64_t bytesOf(Storage s) { return s == Storage::F32 ? 4 : 2; }
inline const char *nameOf(Storage s) {
  return s == Storage::F32 ? "f32" : s == Storage::BF16 ? "bf16" : "f16";
}

} // namespace moe

#endif
