// Rows of activations that feed products on a CPU.
#ifndef MOE_COMPILER_KERNELS_ACTIVATIONROW_H
#define MOE_COMPILER_KERNELS_ACTIVATIONROW_H

#include "compiler/kernels/Contract.h"

namespace moe::codegen {

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

// Of a token whose channels feed products with two weights: one row where both want the same bytes.
inline int64_t rowBytesFor(const ActivationRow &a, const ActivationRow &b) {
  return a.bytes() + (a.sameAs(b) ? 0 : b.bytes());
}

} // namespace moe::codegen

#endif
