// The linear layers of a vision tower. Each block of sums becomes what comes after it while it is
// in the cache: bias, GELU, residual or the next product's rows.
#include "compiler/kernels/projection/Math.h"
#include "compiler/kernels/projection/Projection.h"
#include "compiler/kernels/projection/RowBlocks.h"
#include <numeric>

namespace moe::codegen {

namespace {
struct Projection {
  CpuKernel &k;
  const CpuProjection &s;
  using To = CpuProjection::To;
  ActivationRow next{s.to == To::Rows ? s.next : WeightFormat{Storage::F32}, s.outputs};
  // Rows of codes are made in whole units, and so of several panels at once.
  RowBlocks blocks{k, ActivationRow{s.format, s.inputs}, s.outputs,
                   next.quantized() ? std::lcm(next.unit(), kPanel) / kPanel : 1};
  int64_t width = blocks.width();
  Ptr bias = s.bias ? paddedCopy(k, k.operand(Operand::Bias), s.outputs, width) : Ptr{};
  Ptr out = k.operand(s.to == To::Stream   ? Operand::H
                      : s.to == To::Images ? Operand::Images
                                           : Operand::Hidden);

  // What is written of so many channels of a group.
  void finish(Val first, Val count, Val group, Ptr sums, int64_t channels) {
    k.loop(k.i64(0), count, 1, [&](Val r) {
      Ptr row = sums + r * (width * 4), to = rowOf(first + r, group);
      Ptr biases = s.bias ? bias + group * (width * 4) : Ptr{};
      k.channels(channels, [&](Val c, int64_t lanes) {
        mlir::Type type = k.vec(lanes, k.f32());
        Val y = (row + c * 4).load(type);
        if (s.bias)
          y = y + (biases + c * 4).load(type);
        if (s.gelu)
          y = gelu(y, [&](Val x) { return k.exp2(x); });
        write(y, c, row, to);
      });
      if (next.quantized())
        k.quantize(row, next, channels, to);
    });
  }

  Ptr rowOf(Val row, Val group) {
    switch (s.to) {
    case To::Stream:
      return out + row * (padded(s.outputs) * 4) + group * (width * 4);
    case To::Images:
      return out + row * (s.outputs * 4) + group * (width * 4);
    case To::Rows:
      return out + row * next.bytes() + group * (width / next.unit() * next.unitBytes());
    }
    llvm_unreachable("no such destination");
  }

  void write(Val y, Val c, Ptr row, Ptr to) {
    if (next.quantized())
      return (row + c * 4).store(y);
    Ptr at = to + c * bytesOf(next.storage());
    at.store(s.to == To::Stream ? at.load(y.type()) + y : k.toStorage(y, next.storage()));
  }

  void run() {
    // Padding of rows is zero: sums of rows that pad a panel are, and biases that are not there.
    const bool whole = s.to != To::Images && !next.quantized();
    const int64_t rest = whole ? 0 : s.outputs % width;
    const int64_t last = s.outputs / width;
    blocks.run(k.operand(Operand::X), k.tokens * s.rows, k.operand(Operand::Weight),
               [&](Val first, Val count, Val group, Ptr sums) {
                 if (!rest)
                   return finish(first, count, group, sums, width);
                 k.ifThen(lt(group, last), [&] { finish(first, count, group, sums, width); });
                 k.ifThen(eq(group, last), [&] { finish(first, count, group, sums, rest); });
               });
  }
};
} // namespace

void CpuProjection::emit(CpuKernel &k) const { Projection{k, *this}.run(); }

} // namespace moe::codegen
