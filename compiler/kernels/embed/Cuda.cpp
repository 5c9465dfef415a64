// Rows of the embedding, a block for each token.
#include "compiler/kernels/embed/Embed.h"
#include "compiler/targets/cuda/CudaKernel.h"

using namespace mlir;

namespace moe::codegen {

// Channel c of a row, in float32.
static Val element(CudaKernel &k, const WeightFormat &f, int64_t columns, Ptr row, Val c) {
  auto extended = [&](Ptr at, Type type) {
    return k.val(arith::ExtUIOp::create(k, k.i32(), k.load(at, type).value));
  };
  auto wide = [&](Storage type, Ptr at) {
    if (type == Storage::F32)
      return k.load(at, k.f32());
    Val bits = extended(at, k.getI16Type());
    return k.unpack(type == Storage::F16 ? Half::F16 : Half::BF16, bits).first;
  };
  if (!f.quantized())
    return wide(f.element, k.offset(row, c * bytesOf(f.element)));
  const int64_t groups = columns / f.group;
  Val group = c / f.group;
  Val scale = wide(f.scale, k.offset(row, group * bytesOf(f.scale)));
  Ptr codes = row + rowHeadBytes(f, columns);
  if (f.element == Storage::F8E4M3) {
    Val bits = extended(k.offset(codes, c), k.getI8Type());
    // The sign, and exponent and mantissa in the place of float32's, whose bias is 120 more.
    Val value = (bits & 0x80) << 24 | (bits & 0x7f) << 20;
    return k.bitcast(value, k.f32()) * 0x1p120 * scale;
  }
  Val code = f.element == Storage::I8
                 ? extended(k.offset(codes, c), k.getI8Type())
                 : k.val(arith::ShRUIOp::create(
                       k, extended(k.offset(codes, k.shiftRight(c, 1)), k.getI8Type()).value,
                       ((c & 1) * 4).value)) &
                       15;
  Val zero = f.zeros ? extended(k.offset(row + groups * bytesOf(f.scale), group), k.getI8Type())
                     : k.i32(f.zero());
  return k.convert(code - zero, k.f32()) * scale;
}

void Embed::emit(CudaKernel &k) const {
  Ptr tokens = k.operand(Operand::Tokens), table = k.operand(Operand::Embedding),
      h = k.operand(Operand::H);
  k.blocksPerSm = 8;
  k.startNext();
  k.stride(k.block(), k.tokens(), k.blocks(), [&](Val t) {
    Val id = k.convert(k.load(k.offset(tokens, t * 4), k.i32()), k.i64());
    Ptr from = table + id * rowBytes(format, hidden);
    Ptr to = h + k.convert(t, k.i64()) * (padded(hidden) * 4);
    k.stride(k.thread(), k.i32(hidden), k.i32(k.threads),
             [&](Val c) { k.store(k.offset(to, c * 4), element(k, format, hidden, from, c)); });
  });
}

} // namespace moe::codegen
