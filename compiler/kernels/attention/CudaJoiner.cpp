// Joins warps.
#include "compiler/kernels/attention/CudaJoiner.h"
#include "compiler/kernels/attention/CudaMask.h"

using namespace mlir;

namespace moe::codegen {

Joiner::Joiner(CudaKernel &k, int64_t rows, int64_t headDim)
    : k(k), rows(rows), headDim(headDim), stride(headDim + kJoinedPad),
      values(k.shared(warps * rows * stride * 4)), stats(k.shared(warps * rows * 8)) {}

void Joiner::put(WarpAttention &attention, const WarpAttention::State &state) {
  Val thread = k.here(k.thread()), warp = k.shiftRight(thread, 5);
  Val group = k.shiftRight(thread & 31, 2), quarter = thread & 3;
  for (int64_t half = 0; half < 2 && half * 8 < rows; ++half) {
    Val row = group + half * 8, total = attention.total(state, half);
    k.ifThen(lt(row, k.i32(rows)), [&] {
      Val index = warp * rows + row;
      Ptr to = k.offset(values, index * (stride * 4) + quarter * 8);
      for (int64_t n = 0; n < headDim / 8; ++n)
        k.store(to + n * 32, k.vectorOf({attention.out(state, n, half * 2),
                                         attention.out(state, n, half * 2 + 1)}));
      k.ifThen(eq(quarter, 0), [&] {
        k.store(k.offset(stats, index * 8), k.vectorOf({attention.maximum(state, half), total}));
      });
    });
  }
}

Joiner::Joined Joiner::get(Val row, Val channel) {
  SmallVector<Val> maxima, totals;
  Val highest = k.f32(kUnseen);
  for (int64_t w = 0; w < warps; ++w) {
    Val both = k.load(k.offset(stats, row * 8) + w * rows * 8, k.vec(2, k.f32()));
    maxima.push_back(k.at(both, 0));
    totals.push_back(k.at(both, 1));
    highest = max(highest, maxima.back());
  }
  Val total = k.f32(0);
  Quad sum(k);
  Ptr at = k.offset(values, row * (stride * 4) + channel * 4);
  for (int64_t w = 0; w < warps; ++w) {
    Val weight = weightOf(k, maxima[w], highest);
    total = fma(totals[w], weight, total);
    sum.add(k.load(at + w * rows * stride * 4, k.vec(4, k.f32())), weight);
  }
  return {highest, total, sum};
}

void Joiner::each(function_ref<void(Val row, Val channel, const Joined &)> body) {
  int64_t quads = headDim / 4;
  k.stride(k.here(k.thread()), k.i32(rows * quads), k.i32(warps * 32), [&](Val i) {
    Val row = i / quads, channel = i % quads * 4;
    body(row, channel, get(row, channel));
  });
}

Quad::Quad(CudaKernel &k) : k(k) { x.fill(k.f32(0)); }
void Quad::add(Val values, Val weight) {
  for (int64_t i = 0; i < 4; ++i)
    x[i] = fma(k.at(values, i), weight, x[i]);
}
void Quad::storeBf16(Ptr to, Val factor) const {
  k.store(to, k.vectorOf({k.pack(Half::BF16, x[0] * factor, x[1] * factor),
                          k.pack(Half::BF16, x[2] * factor, x[3] * factor)}));
}

void clearPadding(CudaKernel &k, Ptr row, int64_t channels) {
  int64_t pairs = (padded(channels) - channels) / 2;
  if (pairs)
    k.ifThen(lt(k.thread(), k.i32(pairs)),
             [&] { k.store(k.offset(row + channels * 2, k.thread() * 4), k.i32(0)); });
}

} // namespace moe::codegen
