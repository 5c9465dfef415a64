// RMSNorm of rows of h, to the bf16 rows that a product reads.
#include "compiler/kernels/norm/Norm.h"
#include "compiler/kernels/norm/NormRows.h"

using namespace mlir;

namespace moe::codegen {

NormRows::NormRows(CudaKernel &k, int64_t most, int64_t hidden, float eps, Ptr rows)
    : k(k), hidden(hidden), eps(eps), rows(rows), partial(k.shared(most * k.threads / 32 * 4)) {}

Val NormRows::load(Ptr row, Val c, bool constantMemory) {
  int64_t whole = hidden / 4 * 4;
  auto zero = [&] { return SmallVector<Val>{k.constant(k.vec(4, k.f32()), 0)}; };
  auto last = [&] { // the channels that are left
    SmallVector<Val> values(4, k.f32(0));
    for (int64_t j = 0; j < hidden % 4; ++j)
      values[j] = k.load(row + (whole + j) * 4, k.f32(), constantMemory);
    return SmallVector<Val>{k.vectorOf(values)};
  };
  return k.choose(
      lt(c, whole),
      [&] {
        return SmallVector<Val>{k.load(k.offset(row, c * 4), k.vec(4, k.f32()), constantMemory)};
      },
      [&] { return hidden % 4 ? k.choose(eq(c, whole), last, zero) : zero(); })[0];
}

void NormRows::run(int64_t count, function_ref<Ptr(int64_t)> rowOf, Ptr norm,
                   function_ref<void(int64_t, Val, Val)> use) {
  int64_t warps = k.threads / 32, width = padded(hidden), step = 4 * k.threads;
  // A thread's channels in pieces of four, and what to do with those that exist.
  SmallVector<Val> channels;
  for (int64_t first = 0; first < width; first += step)
    channels.push_back(k.thread() * 4 + first);
  auto inside = [&](size_t p, function_ref<void()> body) {
    if (int64_t(p + 1) * step <= width)
      return body();
    k.ifThen(lt(channels[p], width), body);
  };

  k.barrier(); // `partial` of the rows before was read
  SmallVector<Val> pieces;
  for (int64_t i = 0; i < count; ++i) {
    Ptr row = rowOf(i);
    pieces.clear();
    for (Val c : channels)
      pieces.push_back(load(row, c, false));
    Val squares = k.f32(0);
    for (auto [p, piece] : llvm::enumerate(pieces)) {
      for (int64_t j = 0; j < 4; ++j)
        squares = fma(k.at(piece, j), k.at(piece, j), squares);
      if (count > 1)
        inside(p, [&] { k.store(kept(i, channels[p]), piece); });
    }
    squares = k.warpSum(squares);
    k.ifThen(k.one(), [&] { k.store(k.offset(partial, (k.warp() + i * warps) * 4), squares); });
  }
  k.barrier();
  SmallVector<Val> scales;
  for (int64_t i = 0; i < count; ++i) {
    Val sum = k.f32(0);
    for (int64_t w = 0; w < warps; ++w)
      sum = sum + k.load(partial + (i * warps + w) * 4, k.f32());
    scales.push_back(k.inverseRms(sum, hidden, eps));
  }
  for (auto [p, c] : llvm::enumerate(channels))
    inside(p, [&, p = p, c = c] {
      Val g = load(norm, c, true);
      for (int64_t i = 0; i < count; ++i) {
        Val piece = count > 1 ? k.load(kept(i, c), k.vec(4, k.f32())) : pieces[p];
        use(i, c, piece * scales[i] * g);
      }
    });
}

void CudaNorm::emit(CudaKernel &k) const {
  int64_t width = padded(hidden);
  Ptr h = k.operand(Operand::H), norm = k.operand(Operand::Norm), x = k.operand(Operand::X);
  k.threads = 256;
  k.blocksPerSm = width <= 8192 ? 4 : 2; // a row is held in registers
  NormRows rows(k, 1, hidden, eps, Ptr{});
  k.startNext();
  k.waitForPrevious();
  k.stride(k.block(), gather ? k.rows() : k.tokens(), k.blocks(), [&](Val i) {
    Val t = gather ? k.load(k.offset(k.operand(Operand::Rows), i * 4), k.i32()) : i;
    Ptr from = h + k.convert(t, k.i64()) * (width * 4),
        to = x + k.convert(i, k.i64()) * (width * 2);
    rows.run(
        1, [&](int64_t) { return from; }, norm,
        [&](int64_t, Val c, Val y) {
          Val low = k.pack(Half::BF16, k.at(y, 0), k.at(y, 1));
          Val high = k.pack(Half::BF16, k.at(y, 2), k.at(y, 3));
          k.store(k.offset(to, c * 2), k.vectorOf({low, high}));
        });
  });
}

} // namespace moe::codegen
