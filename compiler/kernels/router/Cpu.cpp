// Implements the router on a CPU.
#include "compiler/kernels/router/Cpu.h"
#include "compiler/kernels/router/Math.h"

namespace moe::codegen {

// The logits of the row: a few experts at once, for each load of the row and as sums that do not
// wait for each other.
void CpuRouter::computeLogits(Ptr row) {
  constexpr int64_t atOnce = 4;
  const int64_t whole = experts / atOnce * atOnce;
  auto some = [&](Val expert, int64_t count) {
    llvm::SmallVector<Ptr> rows;
    for (int64_t i = 0; i < count; ++i)
      rows.push_back(weight + (expert + i) * (hidden * 4));
    auto sums = k.dots(row, rows, hidden);
    for (int64_t i = 0; i < count; ++i)
      (logits + (expert + i) * 4).store(sums[i]);
  };
  if (whole)
    k.loop(0, whole, atOnce, [&](Val expert) { some(expert, atOnce); });
  if (whole < experts)
    some(k.i64(whole), experts - whole);
}

// The k largest logits, ties to the lower expert: each is the largest of those that come after the
// one before in that order.
void CpuRouter::choose(Val token) {
  Val lastLogit = k.f32(INFINITY), lastExpert = k.i64(-1);
  for (int64_t rank = 0; rank < perToken; ++rank) {
    auto best = k.loop(k.i64(0), k.i64(experts), 1, {k.f32(-INFINITY), k.i64(0)},
                       [&](Val e, llvm::ArrayRef<Val> best) {
                         Val x = (logits + e * 4).load(k.f32());
                         Val after = isBefore({lastLogit, lastExpert}, {x, e});
                         Val better = after & gt(x, best[0]);
                         return llvm::SmallVector<Val>{select(better, x, best[0]),
                                                       select(better, e, best[1])};
                       });
    Val choice = token * perToken + rank;
    (chosen + choice * 4).store(k.convert(best[1], k.i32()));
    (scores + choice * 4).store(k.sigmoid(best[0]));
    lastLogit = best[0];
    lastExpert = best[1];
  }
}

void SortedChoices::sort(Ptr chosen) {
  Val n = k.tokens * perToken;
  k.loop(0, experts + 2, 1, [&](Val e) { set(starts, e, k.i64(0)); });
  k.loop(k.i64(0), n, 1, [&](Val c) {
    Val e = at(chosen, c) + 2;
    set(starts, e, at(starts, e) + 1);
  });
  k.loop(2, experts + 2, 1, [&](Val e) { set(starts, e, at(starts, e) + at(starts, e - 1)); });
  k.loop(k.i64(0), n, 1, [&](Val c) {
    Val e = at(chosen, c) + 1, place = at(starts, e);
    set(starts, e, place + 1);
    set(sorted, place, c);
    set(tokens, place, c / perToken);
  });
}

} // namespace moe::codegen
