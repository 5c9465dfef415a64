// Implements the finishing of q, k and v.
#include "compiler/kernels/qkv/CudaFinisher.h"
#include "compiler/kernels/qkv/Math.h"

using namespace mlir;

namespace moe::codegen {

Finisher::Finisher(CudaKernel &k, const FinishSpec &spec, Ptr positions, Ptr sums,
                   std::optional<Ptr> rope)
    : k(k), s(spec), positions(positions), sums(sums), rope(rope) {}

// A lane without an i-th pair takes the last one for zeros.
Finisher::Pairs Finisher::sum(Val token, Val head) {
  lane = k.here(k.lane());
  Ptr row = sums + (k.convert(token, k.i64()) * (s.rows() * 4) +
                    k.convert(head * (s.cache.headDim * 4), k.i64()));
  Val splitBytes = k.convert(k.tokens(), k.i64()) * (s.rows() * 4);
  Pairs x;
  for (int64_t i = 0; i * 32 < pairs; ++i) {
    Val there = lt(pair(i), k.i32(pairs));
    Ptr at = k.offset(row, (always(i) ? pair(i) : min(pair(i), k.i32(pairs - 1))) * 8);
    Val first = k.load(at, k.vec(2, k.f32()));
    Val a = k.at(first, 0), b = k.at(first, 1);
    for (int64_t split = 1; split < s.sumSplits; ++split) {
      at = at + splitBytes;
      Val more = k.load(at, k.vec(2, k.f32()));
      a = a + k.at(more, 0);
      b = b + k.at(more, 1);
    }
    x.push_back(always(i) ? std::pair(a, b)
                          : std::pair(select(there, a, k.f32(0)), select(there, b, k.f32(0))));
  }
  return x;
}

void Finisher::rotate(Pairs &x, Val token) {
  if (!rope)
    return;
  Ptr table = *rope + k.convert(token, k.i64()) * (padded(s.cache.headDim) * 4);
  for (auto [i, ab] : llvm::enumerate(x)) {
    auto [a, b] = ab;
    Val which = always(i) ? pair(i) : min(pair(i), k.i32(pairs - 1));
    Val turn = k.load(k.offset(table, which * 8), k.vec(2, k.f32()));
    Val cosine = k.at(turn, 0), sine = k.at(turn, 1);
    ab = {a * cosine - b * sine, a * sine + b * cosine};
  }
}

Val Finisher::normFactor(const Pairs &x) {
  if (!s.qkNorm)
    return k.f32(1);
  Val squares = k.f32(0);
  for (auto [a, b] : x)
    squares = fma(a, a, fma(b, b, squares));
  return k.inverseRms(k.warpSum(squares), s.cache.headDim, *s.qkNorm);
}

void Finisher::give(const Pairs &x, std::optional<Val> factor, Each each) {
  for (auto [i, ab] : llvm::enumerate(x)) {
    auto [a, b] = ab;
    Val packed = factor ? k.pack(halfOf(s.cache.storage), a * *factor, b * *factor)
                        : k.pack(halfOf(s.cache.storage), a, b);
    if (always(i))
      each(pair(i), packed);
    else
      k.ifThen(lt(pair(i), k.i32(pairs)), [&, i = i] { each(pair(i), packed); });
  }
}

void Finisher::query(Val token, Val head, Each each) {
  Pairs x = sum(token, head);
  rotate(x, token);
  auto position = [&] {
    return k.convert(k.load(k.offset(positions, token * 4), k.i32(), true), k.f32());
  };
  auto log = [&](Val x) { // off by 2^-22
    return k.ptx("lg2.approx.ftz.f32 $0, $1;", k.f32(), {x}, "=f,f", false)[0] * std::numbers::ln2;
  };
  give(x, queryFactor(normFactor(x), s.cache.headDim, s.temperature, position, log), each);
}

void Finisher::key(Val token, Val head, Each each) {
  Pairs x = sum(token, head + s.heads);
  rotate(x, token);
  if (s.qkNorm)
    give(x, normFactor(x), each);
  else
    give(x, std::nullopt, each);
}

void Finisher::value(Val token, Val head, Each each) {
  give(sum(token, head + (s.heads + s.cache.heads)), std::nullopt, each);
}

void Finisher::storePair(Ptr tile, TileLayout layout, Val row, Val pair, Val packed) {
  Val at = offsetIn(layout, row, k.shiftRight(pair, 2)) + (pair & 3) * 4;
  k.store(k.offset(tile, at), packed);
}

} // namespace moe::codegen
