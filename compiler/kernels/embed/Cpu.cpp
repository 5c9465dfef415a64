// Rows of the embedding, a share of the tokens for each worker.
#include "compiler/kernels/embed/Embed.h"
#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

namespace {
// One row of the table as float32.
struct EmbedRow {
  CpuKernel &k;
  const Embed &s;
  const WeightFormat &f = s.format;

  // `n` neighbouring elements, not yet scaled.
  Val codes(Ptr from, Val channel, int64_t n) {
    mlir::Type bytes = k.vec(n, k.getI8Type());
    if (f.element == Storage::I4) {
      Val both = (from + channel / 2).load(k.vec(n / 2, k.getI8Type()));
      return k.convert(k.interleave(both & 0xf, shiftRight(both, 4)), k.f32());
    }
    Val code = (from + channel).load(bytes);
    if (f.element == Storage::I8)
      return k.convert(k.convert(code, k.i32()) & 0xff, k.f32());
    // As float16 with the exponent's bits in place: 2^-8 of the value.
    Val wide = k.convert(code, k.getI16Type());
    Val half = k.bitcast(((wide << 7) & 0x3f80) | (wide & -32768), k.vec(n, k.getF16Type()));
    return k.convert(half, k.f32()) * 256;
  }

  void quantized(Ptr from, Ptr to) {
    int64_t scaleBytes = bytesOf(f.scale), groups = s.hidden / f.group,
            head = rowHeadBytes(f, s.hidden);
    k.loop(0, groups, 1, [&](Val g) {
      Val scale = k.loadFloats(from + g * scaleBytes, 0, f.scale);
      Val zero = k.f32(f.zero());
      if (f.zeros)
        zero = k.convert(k.convert((from + groups * scaleBytes + g).load(k.getI8Type()), k.i32()),
                         k.f32());
      k.channels(f.group, [&](Val c, int64_t lanes) {
        Val channel = g * f.group + c;
        Ptr at = to + channel * 4;
        if (lanes == 1 && f.element == Storage::I4) // the half of a byte
          return at.store((oddCode(from + head, channel) - zero) * scale);
        at.store((codes(from + head, channel, lanes) - zero) * scale);
      });
    });
  }
  Val oddCode(Ptr from, Val channel) {
    Val byte = k.convert((from + channel / 2).load(k.getI8Type()), k.i32());
    Val upper = shiftRight(byte, 4) & 0xf;
    return k.convert(select(eq(channel % k.i64(2), 1), upper, byte & 0xf), k.f32());
  }

  void run(Ptr from, Ptr to) {
    if (f.quantized())
      return quantized(from, to);
    int64_t bytes = bytesOf(f.element);
    k.channels(s.hidden, [&](Val c, int64_t lanes) {
      Val x = (from + c * bytes).load(k.vec(lanes, k.typeOf(f.element)));
      (to + c * 4).store(k.convert(x, k.f32()));
    });
  }
};
} // namespace

void Embed::emit(CpuKernel &k) const {
  Ptr tokens = k.operand(Operand::Tokens), table = k.operand(Operand::Embedding),
      h = k.operand(Operand::H);
  Ptr imageRows = images ? k.operand(Operand::ImageRows) : Ptr{},
      pictures = images ? k.operand(Operand::Images) : Ptr{};
  auto [first, last] = k.share(k.tokens);
  k.loop(first, last, 1, [&](Val t) {
    Ptr to = h + t * (padded(hidden) * 4);
    auto embed = [&] {
      Val token = k.convert((tokens + t * 4).load(k.i32()), k.i64());
      EmbedRow{k, *this}.run(table + token * rowBytes(format, hidden), to);
    };
    if (images) {
      Val row = k.convert((imageRows + t * 4).load(k.i32()), k.i64());
      k.ifThen(lt(row, 0), embed);
      k.ifThen(ge(row, 0), [&] {
        Ptr from = pictures + row * (hidden * 4);
        k.channels(hidden, [&](Val c, int64_t lanes) {
          (to + c * 4).store((from + c * 4).load(k.vec(lanes, k.f32())));
        });
      });
    } else {
      embed();
    }
    for (int64_t c = hidden; c < padded(hidden); ++c)
      (to + c * 4).store(k.f32(0));
  });
}

} // namespace moe::codegen
