// The feed-forward half of a layer as two kernels: gate and up projections of the shared and the
// routed experts, then their down projections. A dense MLP is the same with a shared expert alone.
//
// Groups of tokens share a weight: the shared expert's has every token, that of routed expert e the
// tokens that chose it. Each worker sorts the choices by expert for itself; rows are gathered by
// index as the product reads them, so nothing is permuted in memory.
#include "compiler/targets/cpu/CpuKernel.h"
#include "compiler/targets/cpu/Kernels.h"
#include <numeric>

namespace moe::codegen {

namespace {
// The choices of the step, sorted by expert. A choice is token * k + its rank among the token's,
// and the number of the row of `hidden` that it makes.
struct Choices {
  CpuKernel &k;
  int64_t experts, perToken;
  Ptr starts = k.scratch((experts + 2) * 4); // int32: first place of each expert, and the end
  Ptr sorted = k.scratch(0, perToken * 4);   // int32: choice at each place
  Ptr tokens = k.scratch(0, perToken * 4);   // int32: its token

  Val at(Ptr array, Val i) { return k.convert((array + i * 4).load(k.i32()), k.i64()); }
  void set(Ptr array, Val i, Val x) { (array + i * 4).store(k.convert(x, k.i32())); }

  // A counting sort, stable, so that the order of a sum does not depend on anything else.
  void sort(Ptr chosen) {
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
  Val begin(Val expert) { return at(starts, expert); }
  Val end(Val expert) { return at(starts, expert + 1); }
};

// Norms tokens into rows that feed products; with experts also routes them, on the float32 row that
// the norm gives.
struct NormRows {
  CpuKernel &k;
  int64_t hidden, experts, perToken;
  WeightFormat shared, routed;
  float eps;
  Ptr h, norm, router, x, chosen, scores; // x: see NormRowsSpec

  ActivationRow sharedRow{shared, hidden}, routedRow{experts ? routed : shared, hidden};
  bool oneRow = sharedRow.sameAs(routedRow);
  int64_t width = padded(hidden);
  Ptr row = k.scratch(width * 4), logits = k.scratch(std::max<int64_t>(experts, 1) * 4);

  // Of all tokens, for the scratch memory of a kernel that norms for itself.
  static int64_t bytesPerToken(const ActivationRow &shared, const ActivationRow &routed) {
    return shared.bytes() + (shared.sameAs(routed) ? 0 : routed.bytes());
  }
  Ptr routedRows() { return oneRow ? x : x + k.tokens * sharedRow.bytes(); }

  void run(Val first, Val last) {
    k.loop(first, last, 1, [&](Val t) {
      k.normRow(h + t * (width * 4), norm, hidden, eps, Storage::F32, row);
      k.activationRow(row, sharedRow, x + t * sharedRow.bytes());
      if (!oneRow)
        k.activationRow(row, routedRow, routedRows() + t * routedRow.bytes());
      if (experts) {
        route();
        choose(t);
      }
    });
  }

  // The logits of the row: a few experts at once, for each load of the row and as sums that do not
  // wait for each other.
  void route() {
    constexpr int64_t atOnce = 4;
    const int64_t whole = experts / atOnce * atOnce;
    auto some = [&](Val expert, int64_t count) {
      llvm::SmallVector<Ptr> rows;
      for (int64_t i = 0; i < count; ++i)
        rows.push_back(router + (expert + i) * (hidden * 4));
      auto sums = k.dots(row, rows, hidden);
      for (int64_t i = 0; i < count; ++i)
        (logits + (expert + i) * 4).store(sums[i]);
    };
    if (whole)
      k.loop(0, whole, atOnce, [&](Val expert) { some(expert, atOnce); });
    if (whole < experts)
      some(k.i64(whole), experts - whole);
  }

  // The k largest logits, ties to the lower expert: each is the largest of those that come after
  // the one before in that order.
  void choose(Val t) {
    Val lastLogit = k.f32(INFINITY), lastExpert = k.i64(-1);
    for (int64_t rank = 0; rank < perToken; ++rank) {
      auto best = k.loop(k.i64(0), k.i64(experts), 1, {k.f32(-INFINITY), k.i64(0)},
                         [&](Val e, llvm::ArrayRef<Val> best) {
                           Val x = (logits + e * 4).load(k.f32());
                           Val after = lt(x, lastLogit) | (eq(x, lastLogit) & gt(e, lastExpert));
                           Val better = after & gt(x, best[0]);
                           return llvm::SmallVector<Val>{select(better, x, best[0]),
                                                         select(better, e, best[1])};
                         });
      Val choice = t * perToken + rank;
      (chosen + choice * 4).store(k.convert(best[1], k.i32()));
      (scores + choice * 4).store(k.sigmoid(best[0]));
      lastLogit = best[0];
      lastExpert = best[1];
    }
  }
};

struct GateUp {
  CpuKernel &k;
  const GateUpSpec &s;
  ActivationRow sharedRow{s.shared, s.hidden}, routedRow{s.experts ? s.routed : s.shared, s.hidden};
  ActivationRow sharedTo{s.sharedDown, s.width}, routedTo{s.routedDown, s.width};
  int64_t tile = k.target.tileTokens, burst = 8 * tile;
  // A worker makes whole units of the rows of `hidden`, and so several panels at once.
  static int64_t blockOf(const ActivationRow &row) { return std::lcm(row.unit(), kPanel / 2); }
  int64_t longestBlock = std::max(blockOf(sharedTo), blockOf(routedTo));
  Ptr out = k.scratch(tile * kPanel * 4), values = k.scratch(burst * longestBlock * 4);
  Ptr all = k.identity();

  // silu(f g) * (f u) of one row of the tile. The factor is the router's score: it scales the
  // expert's input, and so the sums before SiLU.
  void swiglu(Ptr row, Val factor, Ptr to) {
    int64_t half = kPanel / 2, lanes = std::min(half, k.target.lanes);
    for (int64_t c = 0; c < half; c += lanes) {
      Val gate = (row + c * 4).load(k.vec(lanes, k.f32())) * factor;
      Val up = (row + (half + c) * 4).load(k.vec(lanes, k.f32())) * factor;
      (to + c * 4).store(gate * k.sigmoid(gate) * up);
    }
  }

  struct Group {
    Ptr x;      // rows of activations
    Ptr matrix; // of the group's weight
    Val count;  // rows
    Ptr ids;    // of them in x
    Ptr to;     // rows of `hidden`
    const ActivationRow &from, &into;
  };

  int64_t panels() { return llvm::divideCeil(s.width, kPanel / 2); }

  // Blocks [first, last) of a group.
  void blocks(const Group &g, Val first, Val last,
              llvm::function_ref<std::pair<Val, Val>(Val)> factorAndRow) {
    int64_t channels = blockOf(g.into), each = channels / (kPanel / 2);
    int64_t bytes = panelBytes(g.from.weight, s.hidden);
    k.loop(first, last, 1, [&](Val block) {
      Val firstPanel = block * each, lastPanel = min(firstPanel + each, k.i64(panels()));
      k.loop(k.i64(0), g.count, burst, [&](Val i) {
        Val n = min(g.count - i, k.i64(burst));
        k.loop(firstPanel, lastPanel, 1, [&](Val panel) {
          Ptr at = values + (panel - firstPanel) * (kPanel / 2 * 4);
          k.loop(k.i64(0), n, tile, [&](Val j) {
            Val rows = min(n - j, k.i64(tile));
            k.product(g.from.weight, {g.x, g.from.bytes(), g.ids + (i + j) * 4}, rows,
                      g.matrix + panel * bytes, s.hidden, {out, kPanel * 4, all},
                      /*add=*/false, k.turn(j, n));
            k.loop(k.i64(0), rows, 1, [&](Val r) {
              swiglu(out + r * (kPanel * 4), factorAndRow(i + j + r).first,
                     at + (j + r) * (channels * 4));
            });
          });
        });
        auto write = [&](int64_t channels) {
          k.loop(k.i64(0), n, 1, [&](Val j) {
            int64_t units = blockOf(g.into) / g.into.unit();
            Ptr to = g.to + factorAndRow(i + j).second * g.into.bytes() +
                     block * (units * g.into.unitBytes());
            Ptr from = values + j * (blockOf(g.into) * 4);
            if (g.into.quantized())
              return k.quantize(from, g.into, channels, to);
            k.channels(llvm::alignTo(channels, kPanel / 2), [&](Val c, int64_t lanes) {
              Val x = (from + c * 4).load(k.vec(lanes, k.f32()));
              (to + c * g.into.unitBytes()).store(k.toStorage(x, g.into.storage()));
            });
          });
        };
        int64_t rest = s.width % channels;
        if (!rest)
          return write(channels);
        Val whole = k.i64(s.width / channels);
        k.ifThen(lt(block, whole), [&] { write(channels); });
        k.ifThen(eq(block, whole), [&] { write(rest); });
      });
    });
  }

  int64_t blocksOf(const ActivationRow &into) { return llvm::divideCeil(s.width, blockOf(into)); }

  void run() {
    int64_t next = 0;
    auto operand = [&] { return k.operand(next++); };
    Ptr x, chosen, scores;
    if (s.prepared) {
      x = operand();
      if (s.experts) {
        chosen = operand();
        scores = operand();
      }
    } else {
      Ptr h = operand(), norm = operand(), router = s.experts ? operand() : Ptr{};
      x = k.scratch(0, NormRows::bytesPerToken(sharedRow, routedRow));
      if (s.experts) {
        chosen = k.scratch(0, s.k * 4);
        scores = k.scratch(0, s.k * 4);
      }
      NormRows rows{k, s.hidden, s.experts, s.k, s.shared, s.routed, s.eps,
                    h, norm,     router,    x,   chosen,   scores};
      rows.run(k.i64(0), k.tokens);
    }
    Ptr shared = operand(), routed = s.experts ? operand() : Ptr{}, hidden = operand();
    Group common{x, shared, k.tokens, all, hidden, sharedRow, sharedTo};
    auto same = [&](Val i) { return std::pair{k.f32(1), i}; };
    if (!s.experts) {
      auto [first, last] = k.share(k.i64(blocksOf(sharedTo)));
      return blocks(common, first, last, same);
    }
    Choices choices{k, s.experts, s.k};
    choices.sort(chosen);
    if (!s.prepared) {
      Ptr experts = operand();
      k.ifThen(eq(k.worker, 0), [&] {
        k.loop(k.i64(0), k.tokens * s.k, 1,
               [&](Val c) { (experts + c * 4).store((chosen + c * 4).load(k.i32())); });
      });
    }
    // A worker's share is of the cost, block by block: reading its panels, and its rows.
    auto cost = [&](Val rows, const ActivationRow &into) {
      return select(eq(rows, 0), k.i64(0), (rows + 8) * blockOf(into));
    };
    auto rowsOf = [&](Val e) { return choices.end(e) - choices.begin(e); };
    int64_t sharedBlocks = blocksOf(sharedTo), routedBlocks = blocksOf(routedTo);
    Val total =
        k.loop(k.i64(0), k.i64(s.experts), 1, {cost(k.tokens, sharedTo) * sharedBlocks},
               [&](Val e, llvm::ArrayRef<Val> sum) {
                 return llvm::SmallVector<Val>{sum[0] + cost(rowsOf(e), routedTo) * routedBlocks};
               })[0];
    auto [low, high] = k.share(total);
    auto blocksBetween = [&, low = low, high = high](Val base, Val each, int64_t count) {
      auto place = [&](Val at) {
        return min(max(at - base, k.i64(0)) + each - 1, each * count) / each;
      };
      return std::pair{place(low), place(high)};
    };
    auto [first, last] = blocksBetween(k.i64(0), cost(k.tokens, sharedTo), sharedBlocks);
    blocks(common, first, last, same);
    bool oneRow = sharedRow.sameAs(routedRow);
    Ptr routedX = oneRow ? x : x + k.tokens * sharedRow.bytes();
    Ptr routedHidden = hidden + k.tokens * sharedTo.bytes();
    int64_t matrixBytes = panels() * panelBytes(s.routed, s.hidden);
    k.loop(k.i64(0), k.i64(s.experts), 1, {cost(k.tokens, sharedTo) * sharedBlocks},
           [&](Val e, llvm::ArrayRef<Val> base) {
             Val begin = choices.begin(e), rows = rowsOf(e), each = cost(rows, routedTo);
             k.ifThen(gt(rows, 0), [&] {
               auto [first, last] = blocksBetween(base[0], each, routedBlocks);
               Group group{routedX,      routed + e * matrixBytes,
                           rows,         choices.tokens + begin * 4,
                           routedHidden, routedRow,
                           routedTo};
               blocks(group, first, last, [&](Val i) {
                 Val choice = choices.at(choices.sorted, begin + i);
                 return std::pair{(scores + choice * 4).load(k.f32()), choice};
               });
             });
             return llvm::SmallVector<Val>{base[0] + each * routedBlocks};
           });
  }
};
} // namespace

void emitNormRows(CpuKernel &k, const NormRowsSpec &s) {
  bool routes = s.experts;
  NormRows rows{k,
                s.hidden,
                s.experts,
                s.k,
                s.shared,
                s.routed,
                s.eps,
                k.operand(0),
                k.operand(1),
                routes ? k.operand(2) : Ptr{},
                k.operand(routes ? 3 : 2),
                routes ? k.operand(4) : Ptr{},
                routes ? k.operand(5) : Ptr{}};
  auto [first, last] = k.share(k.tokens);
  rows.run(first, last);
}

void emitGateUp(CpuKernel &k, const GateUpSpec &s) { GateUp{k, s}.run(); }

void emitDown(CpuKernel &k, const DownSpec &s) {
  Ptr hidden = k.operand(0), shared = k.operand(s.experts ? 2 : 1),
      routed = s.experts ? k.operand(3) : Ptr{}, h = k.operand(s.experts ? 4 : 2);
  int64_t tile = k.target.tileTokens, panels = padded(s.hidden) / kPanel;
  const ActivationRow sharedRow{s.shared, s.width}, routedRow{s.routed, s.width};
  Ptr all = k.identity();
  auto [first, last] = k.share(k.i64(panels));
  // A worker's panels of one matrix lie together, and it reads them as one stream.
  auto group = [&, first = first, last = last](const ActivationRow &row, Ptr x, Ptr matrix,
                                               Val count, Ptr ids, Ptr tokens) {
    k.loop(first, last, 1, [&](Val panel) {
      k.loop(k.i64(0), count, tile, [&](Val i) {
        Val n = min(count - i, k.i64(tile));
        k.product(row.weight, {x, row.bytes(), ids + i * 4}, n,
                  matrix + panel * panelBytes(row.weight, s.width), s.width,
                  {h + panel * (kPanel * 4), padded(s.hidden) * 4, tokens + i * 4}, /*add=*/true,
                  k.turn(i, count));
      });
    });
  };
  group(sharedRow, hidden, shared, k.tokens, all, all);
  if (!s.experts)
    return;
  Choices choices{k, s.experts, s.k};
  choices.sort(k.operand(1));
  k.loop(0, s.experts, 1, [&](Val e) {
    Val begin = choices.begin(e), rows = choices.end(e) - begin;
    k.ifThen(gt(rows, 0), [&] {
      group(routedRow, hidden + k.tokens * sharedRow.bytes(),
            routed + e * (panels * panelBytes(s.routed, s.width)), rows, choices.sorted + begin * 4,
            choices.tokens + begin * 4);
    });
  });
}

} // namespace moe::codegen
