// What the kernels of a model are: their shapes and storage, and the buffers that they work on. The
// same for all targets of a device; a spec's name says everything that its code depends on.
//
// Activations are rows of float32, or of the storage type where they only feed a product. A row has
// its channels padded with zeros to a multiple of 64 (`padded`), so that vectors need no tails.
#ifndef MOE_COMPILER_CODEGEN_KERNELSPEC_H
#define MOE_COMPILER_CODEGEN_KERNELSPEC_H

#include "dialects/moe/Packing.h"
#include "dialects/moe/Storage.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/MathExtras.h"
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

namespace moe::codegen {

inline constexpr int64_t kPanel = PackedGeometry::panelLanes;
inline constexpr int64_t kPageTokens = 64; // positions of a KV page

inline int64_t padded(int64_t channels) { return llvm::alignTo(channels, kPanel); }

// Bytes of one panel of 64 rows by k columns; bf16 comes in pairs of columns.
inline int64_t panelBytes(Storage s, int64_t k) {
  return s == Storage::F32 ? k * kPanel * 4 : llvm::divideCeil(k, 2) * kPanel * 4;
}

// A layer's part of a KV page. Per head: keys as one panel of 64 positions by head_dim columns,
// then values as panels of 64 channels by 64 positions, so that both products of attention are the
// product of the linears.
struct CacheSpec {
  int64_t heads = 0, headDim = 0;
  int64_t chunk = 0;     // 0: every earlier position is visible
  int64_t pageBytes = 0; // of the pool, all of its layers
  Storage storage = Storage::F32;

  int64_t keyBytes() const { return panelBytes(storage, headDim); }
  int64_t valueBytes() const { return padded(headDim) / kPanel * panelBytes(storage, kPageTokens); }
  int64_t headBytes() const { return keyBytes() + valueBytes(); }
  int64_t layerBytes() const { return heads * headBytes(); }
};

// operands: tokens, table, h. The table's rows are neither packed nor padded.
struct EmbedSpec {
  int64_t hidden;
  Storage storage;
};

// operands: positions, cosines and sines [T, padded(head_dim)]
struct RopeTableSpec {
  llvm::SmallVector<float> frequencies;
};

// operands: positions, sequences, block table, h, norm, weight, q [T, heads * padded(head_dim)],
// cache, and with rope the table of RopeTableSpec. Finishes q, k and v in its epilogue: rotation,
// QK norm, temperature; q also takes the softmax's 1/sqrt(d), in base 2.
struct QkvSpec {
  int64_t hidden, heads;
  Storage storage; // of the weight; q, k and v are stored as the cache is
  CacheSpec cache;
  float eps;
  bool rope;
  std::optional<float> qkNorm;
  std::optional<std::pair<float, float>> temperature; // scale, floor
};

// operands: positions, sequences, block table, q, cache, out [T, padded(heads * head_dim)]
struct AttentionSpec {
  int64_t heads;
  Storage output; // of the rows of `out`
  CacheSpec cache;
};

// operands: x, weight, h. h += x * transpose(weight)
struct LinearResidualSpec {
  int64_t inputs, outputs;
  Storage storage;
};

// With experts, operands: h, norm, router, weight, hidden [(1 + k) T, padded(width)], experts [T,
// k]. Row t of `hidden` is the shared expert's, row T + t k + s that of token t's choice s. Without
// experts: h, norm, weight, hidden [T, padded(width)].
struct GateUpSpec {
  int64_t hidden, width, experts, k;
  Storage storage;
  float eps;
};

// With experts, operands: hidden, experts, weight, h. Without: hidden, weight, h.
struct DownSpec {
  int64_t hidden, width, experts, k;
  Storage storage;
};

// operands: rows, h, norm, weight, logits [R, vocabulary]
struct HeadSpec {
  int64_t hidden, vocabulary;
  Storage storage;
  float eps;
};

using KernelSpec = std::variant<EmbedSpec, RopeTableSpec, QkvSpec, AttentionSpec,
                                LinearResidualSpec, GateUpSpec, DownSpec, HeadSpec>;

// "<op>_<types>_<shape>", unique among different specs.
std::string nameOf(const KernelSpec &spec);

// How many operands a call passes.
int64_t operandsOf(const KernelSpec &spec);

} // namespace moe::codegen

#endif
