// Gate and up projections of the shared and the routed experts, with SwiGLU. A dense MLP is the
// same with a shared expert alone.
//
// Groups of tokens share a weight: the shared expert's has every token, that of routed expert e the
// tokens that chose it. Each worker sorts the choices by expert for itself; rows are gathered by
// index as the product reads them, so nothing is permuted in memory.
#include "compiler/kernels/norm/Cpu.h"
#include "compiler/kernels/gate_up/GateUp.h"
#include "compiler/kernels/gate_up/Math.h"
#include <numeric>

namespace moe::codegen {

namespace {
struct GateUp {
  CpuKernel &k;
  const CpuGateUp &s;
  ActivationRow sharedRow{s.shared, s.hidden}, routedRow{s.experts ? s.routed : s.shared, s.hidden};
  ActivationRow sharedTo{s.sharedDown, s.width}, routedTo{s.routedDown, s.width};
  // A burst's rows of x stay in the second-level cache beside a panel.
  static int64_t burstOf(int64_t tile) { return std::min<int64_t>(8, 64 / tile) * tile; }
  int64_t sharedTile = k.tileTokens(sharedRow.weight), routedTile = k.tileTokens(routedRow.weight);
  // A worker makes whole units of the rows of `hidden`, and so several panels at once.
  static int64_t blockOf(const ActivationRow &row) { return std::lcm(row.unit(), kPanel / 2); }
  int64_t longestBlock = std::max(blockOf(sharedTo), blockOf(routedTo));
  Ptr out = k.scratch(std::max(sharedTile, routedTile) * kPanel * 4),
      values = k.scratch(std::max(burstOf(sharedTile), burstOf(routedTile)) * longestBlock * 4);
  Ptr all = k.identity();

  // silu(f g) * (f u) of one row of the tile. The factor is the router's score: it scales the
  // expert's input, and so the sums before SiLU.
  void writeHidden(Ptr row, Val factor, Ptr to) {
    int64_t half = kPanel / 2, lanes = std::min(half, k.target.lanes);
    for (int64_t c = 0; c < half; c += lanes) {
      Val gate = (row + c * 4).load(k.vec(lanes, k.f32())) * factor;
      Val up = (row + (half + c) * 4).load(k.vec(lanes, k.f32())) * factor;
      (to + c * 4).store(swiglu(gate, up, [&](Val x) { return k.sigmoid(x); }));
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

  // Blocks [first, last) of a group.
  void blocks(const Group &g, Val first, Val last,
              llvm::function_ref<std::pair<Val, Val>(Val)> factorAndRow) {
    int64_t channels = blockOf(g.into), each = channels / (kPanel / 2);
    int64_t bytes = panelBytes(g.from.weight, s.hidden);
    const int64_t tile = k.tileTokens(g.from.weight), burst = burstOf(tile);
    k.loop(first, last, 1, [&](Val block) {
      Val firstPanel = block * each, lastPanel = min(firstPanel + each, k.i64(s.panels()));
      k.loop(k.i64(0), g.count, burst, [&](Val i) {
        Val n = min(g.count - i, k.i64(burst));
        k.loop(firstPanel, lastPanel, 1, [&](Val panel) {
          Ptr at = values + (panel - firstPanel) * (kPanel / 2 * 4);
          k.loop(k.i64(0), n, tile, [&](Val j) {
            Val rows = min(n - j, k.i64(tile));
            k.product(g.from.weight, {g.x, g.from.bytes(), g.ids + (i + j) * 4}, rows,
                      g.matrix + panel * bytes, s.hidden, {out, kPanel * 4, all},
                      /*add=*/false, k.turn(j, n, tile));
            k.loop(k.i64(0), rows, 1, [&](Val r) {
              writeHidden(out + r * (kPanel * 4), factorAndRow(i + j + r).first,
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

  int64_t blockBytes(const ActivationRow &from, const ActivationRow &into) {
    return blockOf(into) / (kPanel / 2) * panelBytes(from.weight, s.hidden);
  }
  int64_t blocksOf(const ActivationRow &into) { return llvm::divideCeil(s.width, blockOf(into)); }

  void run() {
    Ptr x, chosen, scores;
    if (s.prepared) {
      x = k.operand(Operand::X);
      if (s.experts) {
        chosen = k.operand(Operand::Experts);
        scores = k.operand(Operand::Scores);
      }
    } else {
      Ptr h = k.operand(Operand::H), norm = k.operand(Operand::Norm),
          router = s.experts ? k.operand(Operand::Router) : Ptr{};
      x = k.scratch(0, rowBytesFor(sharedRow, routedRow));
      if (s.experts) {
        chosen = k.scratch(0, s.k * 4);
        scores = k.scratch(0, s.k * 4);
      }
      CpuNormRows rows{k, s.hidden, s.experts, s.k, s.shared, s.routed, s.eps,
                       h, norm,     router,    x,   chosen,   scores};
      rows.run(k.i64(0), k.tokens);
    }
    Ptr shared = k.operand(Operand::SharedWeight),
        routed = s.experts ? k.operand(Operand::RoutedWeight) : Ptr{},
        hidden = k.operand(Operand::Hidden);
    Group common{x, shared, k.tokens, all, hidden, sharedRow, sharedTo};
    auto same = [&](Val i) { return std::pair{k.f32(1), i}; };
    if (!s.experts) {
      return k.parts(k.i64(blocksOf(sharedTo)), k.claims(blockBytes(sharedRow, sharedTo)),
                     [&](Val first, Val last) { blocks(common, first, last, same); });
    }
    SortedChoices choices{k, s.experts, s.k};
    choices.sort(chosen);
    if (!s.prepared) {
      Ptr experts = k.operand(Operand::Experts);
      k.ifThen(eq(k.worker, 0), [&] {
        k.loop(k.i64(0), k.tokens * s.k, 1,
               [&](Val c) { (experts + c * 4).store((chosen + c * 4).load(k.i32())); });
      });
    }
    // Parts are of the cost, block by block: reading its panels, and its rows.
    constexpr int64_t reading = 8; // rows
    auto cost = [&](Val rows, const ActivationRow &into) {
      return select(eq(rows, 0), k.i64(0), (rows + reading) * blockOf(into));
    };
    auto rowsOf = [&](Val e) { return choices.end(e) - choices.begin(e); };
    int64_t sharedBlocks = blocksOf(sharedTo), routedBlocks = blocksOf(routedTo);
    Val sharedCost = cost(k.tokens, sharedTo);
    Val total =
        k.loop(k.i64(0), k.i64(s.experts), 1, {sharedCost * sharedBlocks},
               [&](Val e, llvm::ArrayRef<Val> sum) {
                 return llvm::SmallVector<Val>{sum[0] + cost(rowsOf(e), routedTo) * routedBlocks};
               })[0];
    bool oneRow = sharedRow.sameAs(routedRow);
    Ptr routedX = oneRow ? x : x + k.tokens * sharedRow.bytes();
    Ptr routedHidden = hidden + k.tokens * sharedTo.bytes();
    int64_t matrixBytes = s.panels() * panelBytes(s.routed, s.hidden);
    auto claims = k.claims(blockBytes(sharedRow, sharedTo));
    if (claims) // the cost of so many blocks of one row
      claims->least *= (1 + reading) * blockOf(sharedTo);
    k.parts(total, claims, [&](Val low, Val high) {
      auto blocksBetween = [&](Val base, Val each, int64_t count) {
        auto place = [&](Val at) {
          return min(max(at - base, k.i64(0)) + each - 1, each * count) / each;
        };
        return std::pair{place(low), place(high)};
      };
      auto [first, last] = blocksBetween(k.i64(0), sharedCost, sharedBlocks);
      blocks(common, first, last, same);
      k.loop(k.i64(0), k.i64(s.experts), 1, {sharedCost * sharedBlocks},
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
    });
  }
};
} // namespace

void CpuGateUp::emit(CpuKernel &k) const { GateUp{k, *this}.run(); }

} // namespace moe::codegen
