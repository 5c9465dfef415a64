// How keys and values are kept: of all targets the facts, and of CPUs how they lie in a page.
// (AttentionLayout.h has the pages of GPUs.)
#ifndef MOE_COMPILER_KERNELS_ATTENTION_CACHESPEC_H
#define MOE_COMPILER_KERNELS_ATTENTION_CACHESPEC_H

#include "compiler/kernels/ActivationRow.h"

namespace moe::codegen {

inline constexpr int64_t kPageTokens = 64; // positions of a KV page

// A layer's part of a KV page. Per head: keys as one panel of 64 positions by head_dim columns,
// then values as panels of 64 channels by 64 positions, so that both products of attention are the
// product of the linears.
//
// In I8 each key and each value of a head has a scale, the largest magnitude / 127, and codes of 1
// to 255 that stand for scale * (code - 128). Keys are a panel of codes as weights are, led by 64
// scales (runtime/weights/Layout.h). A value's scale belongs to a column of its panels, not to a
// row, so 64 float32 scales, one for each position, lead all of the head's panels of values:
//
//   values = 64 scales | panel...; position p of channel c is at byte p / 4 * 256 + c % 64 * 4 +
//            p % 4 of panel c / 64
struct CacheSpec {
  int64_t heads = 0, headDim = 0;
  int64_t chunk = 0;     // 0: every earlier position is visible
  int64_t pageBytes = 0; // of the pool, all of its layers
  Storage storage = Storage::F32;

  bool quantized() const { return storage == Storage::I8; }
  // What the keys' panel is packed as.
  WeightFormat keyFormat() const {
    return {.element = storage, .group = quantized() ? headDim : 0, .scale = Storage::F32};
  }
  // A head's row of queries: what the product with the keys takes.
  ActivationRow queryRow() const { return {keyFormat(), headDim}; }

  int64_t keyBytes() const { return panelBytes(keyFormat(), headDim); }
  // Of the scales that lead the panels of values, and of one of those.
  int64_t valueHeadBytes() const { return quantized() ? kPageTokens * 4 : 0; }
  int64_t valuePanelBytes() const {
    return quantized() ? kPanel * kPageTokens : panelBytes(keyFormat(), kPageTokens);
  }
  int64_t valueBytes() const {
    return valueHeadBytes() + padded(headDim) / kPanel * valuePanelBytes();
  }
  int64_t headBytes() const { return keyBytes() + valueBytes(); }
  int64_t layerBytes() const { return heads * headBytes(); }
};

// As names of kernels have it: "bf16_8x128", "_c8192" where it has chunks.
std::string nameOf(const CacheSpec &cache);

} // namespace moe::codegen

#endif
