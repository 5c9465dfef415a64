// What the kernels of a model are: their shapes and storage, and the buffers that they work on. The
// same for all targets of a device; a spec's name says everything that its code depends on.
//
// Activations are rows of float32, or of the storage type where they only feed a product. A row has
// its channels padded with zeros to a multiple of 64 (`padded`), so that vectors need no tails.
#ifndef MOE_COMPILER_TARGETS_KERNELSPEC_H
#define MOE_COMPILER_TARGETS_KERNELSPEC_H

#include "dialects/plan/Packing.h"
#include "runtime/weights/Format.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/MathExtras.h"
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

namespace moe::codegen {

inline constexpr int64_t kPanel = WeightLayout::panelLanes;
inline constexpr int64_t kPageTokens = 64; // positions of a KV page

inline int64_t padded(int64_t channels) { return llvm::alignTo(channels, kPanel); }

// A row of activations that feeds a product with weights of a format: channels of float32 or bf16,
// padded with zeros, or for I8 and I4 weights codes, quantized piece by piece. A piece is a group
// of the weight's columns or, of longer groups, 128 of them and at the end what is left.
//
//   row   = piece... | room up to a multiple of 64 bytes
//   piece = scale, a float32 | start, an int32 | for I4 start * 17 | codes of a byte, up to a
//           multiple of 4
//   channel = scale * code, with -127 <= code <= 127
//   start   = -(sum of the codes) * (the weight's zero; 1 where each group has its own)
//
// So a sum over codes of the weight that begins at `start` ends at that over what they stand for,
// and so does one over 16 * code + another code that begins at `start * 17`. A row's codes depend
// on the row alone.
struct ActivationRow {
  static constexpr int64_t longestPiece = 128;
  static constexpr int64_t scaleAt = 0, startAt = 4, upperStartAt = 8;

  WeightFormat weight;
  int64_t columns;

  bool quantized() const { return infoOf(weight.element).integers; }
  // Of a channel.
  Storage storage() const {
    return quantized()                      ? Storage::I8
           : weight.element == Storage::F32 ? Storage::F32
                                            : Storage::BF16;
  }
  int64_t piece() const { return std::min(weight.group, longestPiece); }
  int64_t codesAt() const { return weight.element == Storage::I4 ? 12 : 8; }
  int64_t pieceBytes() const { return codesAt() + llvm::alignTo(piece(), 4); }
  // What the sum of a piece's codes is multiplied with.
  int64_t startFactor() const { return weight.zeros ? -1 : -weight.zero(); }
  // From the channels of one group to those of the next.
  int64_t groupBytes() const {
    if (!quantized())
      return weight.group * bytesOf(storage());
    int64_t rest = weight.group % piece();
    return weight.group / piece() * pieceBytes() + (rest ? codesAt() + llvm::alignTo(rest, 4) : 0);
  }
  // Channels after which the bytes repeat: rows are made in multiples of it, `unitBytes` each.
  int64_t unit() const {
    if (!quantized())
      return 1;
    return weight.group % piece() == 0 || weight.group == columns ? piece() : weight.group;
  }
  int64_t unitBytes() const {
    return !quantized() ? bytesOf(storage()) : unit() == piece() ? pieceBytes() : groupBytes();
  }
  // The same bytes, whatever the weight.
  bool sameAs(const ActivationRow &other) const {
    return storage() == other.storage() && columns == other.columns &&
           (!quantized() || (weight.group == other.weight.group && codesAt() == other.codesAt() &&
                             startFactor() == other.startFactor()));
  }
  int64_t bytes() const {
    return quantized() ? llvm::alignTo(columns / weight.group * groupBytes(), 64)
                       : padded(columns) * bytesOf(storage());
  }
};

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

// operands: tokens, table, h. The table's rows are neither packed nor padded.
struct EmbedSpec {
  int64_t hidden;
  WeightFormat format;
};

// operands: positions, cosines and sines [T, padded(head_dim)]
struct RopeTableSpec {
  llvm::SmallVector<float> frequencies;
};

// RMSNorm of the residual stream as rows that feed products, and for a mixture of experts the
// router's choices. operands: h, norm, x, and with experts the router's weight, experts [T, k]
// int32 and scores [T, k] float32, sigmoids. Rows of x are for `shared`; where those for `routed`
// differ, T of them follow. Only in programs of many tokens; in the others the kernels that need it
// do it.
struct NormRowsSpec {
  int64_t hidden, experts, k;
  WeightFormat shared, routed;
  float eps;
};

// operands: positions, sequences, block table, h, norm, weight, q [T, heads] rows of queries,
// cache, and with rope the table of RopeTableSpec. Finishes q, k and v in its epilogue: rotation,
// QK norm, temperature; q also takes the softmax's 1/sqrt(d), in base 2. `prepared`: in place of h
// there are rows of NormRowsSpec, and norm is not read.
struct QkvSpec {
  int64_t hidden, heads;
  WeightFormat format; // q, k and v are stored as the cache is
  CacheSpec cache;
  float eps;
  bool rope;
  std::optional<float> qkNorm;
  std::optional<std::pair<float, float>> temperature; // scale, floor
  bool prepared = false;
  // Of the weight that attention's result feeds, where this kernel goes on with attention. Then two
  // operands follow: out, as AttentionSpec has it, and counters, an int32 for each key-value head.
  std::optional<WeightFormat> attention = std::nullopt;
};

// operands: positions, sequences, block table, q, cache, out [T, heads * head_dim]
struct AttentionSpec {
  int64_t heads;
  WeightFormat output; // of the weight that the rows of `out` feed
  CacheSpec cache;

  int64_t channels() const { return heads * cache.headDim; }
  bool outputsFloats() const {
    return channels() / cache.heads % ActivationRow{output, channels()}.unit() != 0;
  }
  int64_t outputBytes() const { // of a row
    return outputsFloats() ? padded(channels()) * 4 : ActivationRow{output, channels()}.bytes();
  }
};

// operands: x, weight, h. h += x * transpose(weight). Rows of x are as AttentionSpec makes them:
// float32 where an activation row's unit spans what one of its workers computes.
struct LinearResidualSpec {
  int64_t inputs, outputs;
  WeightFormat format;
  bool fromFloats = false;
};

// With experts, operands: h, norm, router, shared weight, weight, hidden, experts [T, k]; without:
// h, norm, weight, hidden. `prepared`: x, experts, scores of NormRowsSpec, shared weight, weight,
// hidden; without experts x, weight, hidden. `hidden` has T rows that feed the shared expert's down
// projection, then for token t's choice s row t k + s of those that feed the routed ones.
struct GateUpSpec {
  int64_t hidden, width, experts, k;
  WeightFormat shared, routed; // a dense layer's is `shared`
  float eps;
  WeightFormat sharedDown = {}, routedDown = {};
  bool prepared = false;
};

// With experts, operands: hidden, experts, shared weight, weight, h. Without: hidden, weight, h.
struct DownSpec {
  int64_t hidden, width, experts, k;
  WeightFormat shared, routed;
};

// operands: rows, h, norm, weight, logits [R, vocabulary]
struct HeadSpec {
  int64_t hidden, vocabulary;
  WeightFormat format;
  float eps;
};

using KernelSpec = std::variant<EmbedSpec, RopeTableSpec, NormRowsSpec, QkvSpec, AttentionSpec,
                                LinearResidualSpec, GateUpSpec, DownSpec, HeadSpec>;

// "<op>_<types>_<shape>", unique among different specs.
std::string nameOf(const KernelSpec &spec);

// How many operands a call passes.
int64_t operandsOf(const KernelSpec &spec);

} // namespace moe::codegen

#endif
