// The feed-forward half of a layer as two kernels: gate and up projections of the shared and the
// routed experts, then their down projections. A dense MLP is the same with a shared expert alone.
//
// Groups of tokens share a weight: group 0 is the shared expert with every token, group 1 + e is
// routed expert e with the tokens that chose it. Each worker sorts the choices by expert for
// itself; rows are gathered by index as the product reads them, so nothing is permuted in memory.
#include "compiler/codegen/Kernels.h"
#include "compiler/codegen/cpu/CpuKernel.h"

namespace moe::codegen {

namespace {
// The choices of the step, sorted by expert. A choice is token * k + its rank among the token's.
struct Choices {
  CpuKernel &k;
  int64_t experts, perToken;
  Ptr starts = k.scratch((experts + 2) * 4); // int32: first place of each expert, and the end
  Ptr sorted = k.scratch(0, perToken * 4);   // int32: choice at each place
  Ptr ids = k.scratch(0, perToken * 4);      // int32: row for the product at each place

  Val at(Ptr array, Val i) { return k.convert((array + i * 4).load(k.i32()), k.i64()); }
  void set(Ptr array, Val i, Val x) { (array + i * 4).store(k.convert(x, k.i32())); }

  // A counting sort, stable, so that the order of a sum does not depend on anything else.
  void sort(Ptr chosen, llvm::function_ref<Val(Val)> rowOf) {
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
      set(ids, place, rowOf(c));
    });
  }
  Val begin(Val expert) { return at(starts, expert); }
  Val end(Val expert) { return at(starts, expert + 1); }
};

struct GateUp {
  CpuKernel &k;
  const GateUpSpec &s;
  int64_t bytes = bytesOf(s.storage), width = padded(s.hidden), tile = k.target.tileTokens;
  int64_t panels = llvm::divideCeil(s.width, kPanel / 2);
  int64_t groupBytes = panels * panelBytes(s.storage, s.hidden);
  Ptr h = k.operand(0), norm = k.operand(1), weight = k.operand(s.experts ? 3 : 2),
      hidden = k.operand(s.experts ? 4 : 3);
  Ptr x = k.scratch(0, width *bytes), out = k.scratch(tile * kPanel * 4), all = k.identity();
  Ptr chosen{}, scores{};

  // Norms every token; with experts, also routes it, on the float32 row that the norm gives.
  void prologue() {
    int64_t logitBytes = padded(s.experts) * 4;
    Ptr row = k.scratch(width * 4), logits = k.scratch(std::max<int64_t>(logitBytes, 64));
    if (s.experts) {
      chosen = k.scratch(0, s.k * 4);
      scores = k.scratch(0, s.k * 4);
    }
    k.loop(k.i64(0), k.tokens, 1, [&](Val t) {
      k.normRow(h + t * (width * 4), norm, s.hidden, s.eps, Storage::F32, row);
      k.channels(width, [&](Val c, int64_t lanes) {
        Val v = (row + c * 4).load(k.vec(lanes, k.f32()));
        (x + t * (width * bytes) + c * bytes).store(k.toStorage(v, s.storage));
      });
      if (!s.experts)
        return;
      for (int64_t p = 0; p < padded(s.experts) / kPanel; ++p)
        k.product(Storage::F32, {row, 0, all}, k.i64(1),
                  k.operand(2) + p * panelBytes(Storage::F32, s.hidden), s.hidden,
                  logits + p * kPanel * 4, logitBytes);
      choose(t, logits);
    });
  }

  // The k largest logits, ties to the lower expert: each is the largest of those that come after
  // the one before in that order.
  void choose(Val t, Ptr logits) {
    Val lastLogit = k.f32(INFINITY), lastExpert = k.i64(-1);
    for (int64_t rank = 0; rank < s.k; ++rank) {
      auto best = k.loop(k.i64(0), k.i64(s.experts), 1, {k.f32(-INFINITY), k.i64(0)},
                         [&](Val e, llvm::ArrayRef<Val> best) {
                           Val x = (logits + e * 4).load(k.f32());
                           Val after = lt(x, lastLogit) | (eq(x, lastLogit) & gt(e, lastExpert));
                           Val better = after & gt(x, best[0]);
                           return llvm::SmallVector<Val>{select(better, x, best[0]),
                                                         select(better, e, best[1])};
                         });
      Val choice = t * s.k + rank;
      (chosen + choice * 4).store(k.convert(best[1], k.i32()));
      (scores + choice * 4).store(k.sigmoid(best[0]));
      lastLogit = best[0];
      lastExpert = best[1];
    }
  }

  // silu(f g) * (f u) of one row of the tile, to channels 32 panel.. of a row of `hidden`. The
  // factor is the router's score: it scales the expert's input, and so the sums before SiLU.
  void swiglu(Ptr row, Val factor, Ptr to) {
    int64_t half = kPanel / 2, lanes = std::min(half, k.target.lanes);
    for (int64_t c = 0; c < half; c += lanes) {
      Val gate = (row + c * 4).load(k.vec(lanes, k.f32())) * factor;
      Val up = (row + (half + c) * 4).load(k.vec(lanes, k.f32())) * factor;
      (to + c * bytes).store(k.toStorage(gate * k.sigmoid(gate) * up, s.storage));
    }
  }

  // Panels [first, last) of a group with `count` rows.
  void group(Val group, Val first, Val last, Val count, Ptr ids,
             llvm::function_ref<std::pair<Val, Val>(Val)> factorAndRow) {
    k.loop(first, last, 1, [&](Val panel) {
      k.loop(k.i64(0), count, tile, [&](Val i) {
        Val n = min(count - i, k.i64(tile));
        k.product(s.storage, {x, width * bytes, ids + i * 4}, n,
                  weight + group * groupBytes + panel * panelBytes(s.storage, s.hidden), s.hidden,
                  out, kPanel * 4);
        k.loop(k.i64(0), n, 1, [&](Val j) {
          auto [factor, row] = factorAndRow(i + j);
          swiglu(out + j * (kPanel * 4), factor,
                 hidden + row * (padded(s.width) * bytes) + panel * (kPanel / 2 * bytes));
        });
      });
    });
  }

  void run() {
    prologue();
    auto same = [&](Val i) { return std::pair{k.f32(1), i}; };
    if (!s.experts) {
      auto [first, last] = k.share(k.i64(panels));
      return group(k.i64(0), first, last, k.tokens, all, same);
    }
    Choices choices{k, s.experts, s.k};
    choices.sort(chosen, [&](Val c) { return c / s.k; });
    k.ifThen(eq(k.worker, 0), [&] {
      k.loop(k.i64(0), k.tokens * s.k, 1,
             [&](Val c) { (k.operand(5) + c * 4).store((chosen + c * 4).load(k.i32())); });
    });
    // A worker's share is of the cost, panel by panel: reading the panel, and its rows.
    auto cost = [&](Val rows) { return select(eq(rows, 0), k.i64(0), rows + 8); };
    Val total = k.loop(
        k.i64(0), k.i64(s.experts), 1, {cost(k.tokens)}, [&](Val e, llvm::ArrayRef<Val> sum) {
          return llvm::SmallVector<Val>{sum[0] + cost(choices.end(e) - choices.begin(e))};
        })[0];
    auto [low, high] = k.share(total * panels);
    auto panelsBetween = [&, low = low, high = high](Val base, Val each) {
      auto place = [&](Val at) {
        return min(max(at - base, k.i64(0)) + each - 1, each * panels) / each;
      };
      return std::pair{place(low), place(high)};
    };
    auto [first, last] = panelsBetween(k.i64(0), cost(k.tokens));
    group(k.i64(0), first, last, k.tokens, all, same);
    k.loop(k.i64(0), k.i64(s.experts), 1, {cost(k.tokens) * panels},
           [&](Val e, llvm::ArrayRef<Val> base) {
             Val begin = choices.begin(e), rows = choices.end(e) - begin;
             k.ifThen(gt(rows, 0), [&] {
               auto [first, last] = panelsBetween(base[0], cost(rows));
               group(e + 1, first, last, rows, choices.ids + begin * 4, [&](Val i) {
                 Val choice = choices.at(choices.sorted, begin + i);
                 return std::pair{(scores + choice * 4).load(k.f32()), k.tokens + choice};
               });
             });
             return llvm::SmallVector<Val>{base[0] + cost(rows) * panels};
           });
  }
};
} // namespace

void emitGateUp(CpuKernel &k, const GateUpSpec &s) { GateUp{k, s}.run(); }

void emitDown(CpuKernel &k, const DownSpec &s) {
  Ptr hidden = k.operand(0), weight = k.operand(s.experts ? 2 : 1),
      h = k.operand(s.experts ? 3 : 2);
  int64_t tile = k.target.tileTokens, stride = padded(s.width) * bytesOf(s.storage);
  int64_t panels = padded(s.hidden) / kPanel;
  Ptr out = k.scratch(tile * kPanel * 4), all = k.identity();
  auto group = [&](Val panel, Val group, Val count, Ptr ids, llvm::function_ref<Val(Val)> token) {
    k.loop(k.i64(0), count, tile, [&](Val i) {
      Val n = min(count - i, k.i64(tile));
      k.product(s.storage, {hidden, stride, ids + i * 4}, n,
                weight + (group * panels + panel) * panelBytes(s.storage, s.width), s.width, out,
                kPanel * 4);
      k.loop(k.i64(0), n, 1, [&](Val j) {
        k.addPanel(out + j * (kPanel * 4),
                   h + token(i + j) * (padded(s.hidden) * 4) + panel * (kPanel * 4));
      });
    });
  };
  std::optional<Choices> choices;
  if (s.experts) {
    choices.emplace(Choices{k, s.experts, s.k});
    choices->sort(k.operand(1), [&](Val c) { return k.tokens + c; });
  }
  auto [first, last] = k.share(k.i64(panels));
  k.loop(first, last, 1, [&](Val panel) {
    group(panel, k.i64(0), k.tokens, all, [](Val i) { return i; });
    if (!s.experts)
      return;
    k.loop(0, s.experts, 1, [&](Val e) {
      Val begin = choices->begin(e), rows = choices->end(e) - begin;
      group(panel, e + 1, rows, choices->ids + begin * 4,
            [&](Val i) { return choices->at(choices->sorted, begin + i) / s.k; });
    });
  });
}

} // namespace moe::codegen
