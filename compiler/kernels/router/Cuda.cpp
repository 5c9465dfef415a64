// The router of larger steps: norms tokens, scores all experts in float32, picks the best one. The
// last block to end groups the tokens by expert.
#include "compiler/kernels/norm/NormRows.h"
#include "compiler/kernels/router/Math.h"
#include "compiler/kernels/router/Router.h"

using namespace mlir;

namespace moe::codegen {

namespace {
constexpr int64_t kWarps = 8;

// Rows that a block holds in shared memory, beside the logits of 256 experts.
int64_t tokensAtOnce(int64_t hidden) {
  return std::clamp<int64_t>(144 * 1024 / (padded(hidden) * 4), 1, kWarps);
}

class Router {
public:
  Router(CudaKernel &k, const CudaRouter &s) : k(k), s(s) {}

  void run() {
    k.startNext();
    k.waitForPrevious();
    // One token at a time if there are blocks for all, or as many as share a load of the weights.
    // A token's sums do not depend on which.
    k.ifElse(le(k.tokens(), k.blocks()), [&] { route(1); }, [&] { route(most); });
    k.barrier();
    k.ifThen(eq(k.thread(), 0), [&] { k.store(arrived, k.atomicAdd(counter, k.i32(1))); });
    k.barrier();
    k.ifThen(eq(k.load(arrived, k.i32()), k.blocks() - 1), [&] {
      group();
      k.ifThen(eq(k.thread(), 0), [&] { k.store(counter, k.i32(0)); });
    });
  }

private:
  //===--- Scores --------------------------------------------------------------------------------

  void route(int64_t count) {
    k.stride(k.block() * count, k.tokens(), k.blocks() * count, [&](Val first) {
      auto tokenOf = [&](int64_t i) { return min(first + i, k.tokens() - 1); };
      norms.run(
          count, [&](int64_t i) { return h + k.convert(tokenOf(i), k.i64()) * (width * 4); }, norm,
          [&](int64_t i, Val c, Val y) {
            k.store(k.offset(rows, i * width * 4 + c * 4), y);
            k.ifThen(lt(first + i, k.tokens()), [&] {
              Val low = k.pack(Half::BF16, k.at(y, 0), k.at(y, 1));
              Val high = k.pack(Half::BF16, k.at(y, 2), k.at(y, 3));
              Ptr to = x + k.convert(first + i, k.i64()) * (width * 2);
              k.store(k.offset(to, c * 2), k.vectorOf({low, high}));
            });
          });
      k.barrier();
      k.stride(k.warp() * each, k.i32(s.experts), k.i32(kWarps * each),
               [&](Val e) { score(count, e); });
      k.barrier();
      k.ifThen(lt(k.warp(), count), [&] {
        Val t = first + k.warp();
        k.ifThen(lt(t, k.tokens()), [&] { choose(t); });
      });
      k.barrier(); // the rows and logits were used
    });
  }

  // Logits of `each` experts from e on, by a warp, for `count` rows.
  void score(int64_t count, Val e) {
    int64_t lanes = s.hidden % 4 ? 1 : 4, step = 32 * lanes, unroll = each == 4 ? 2 : 4;
    SmallVector<Ptr> weights;
    for (int64_t n = 0; n < each; ++n)
      weights.push_back(k.offset(router, min(e + n, k.i32(s.experts - 1)) * (s.hidden * 4)));
    Type piece = lanes == 4 ? k.vec(4, k.f32()) : k.f32();
    auto element = [&](Val v, int64_t j) { return lanes == 4 ? k.at(v, j) : v; };
    // sums[i * each + n] += row i times expert n, over `times` steps from channel c on.
    auto add = [&](Val c, int64_t times, ArrayRef<Val> before) {
      SmallVector<Val> sums(before), w;
      for (int64_t u = 0; u < times; ++u)
        for (Ptr from : weights)
          w.push_back(k.load(k.offset(from, (c + u * step) * 4), piece, true));
      for (int64_t u = 0; u < times; ++u)
        for (int64_t i = 0; i < count; ++i) {
          Val y = k.load(k.offset(rows, (c + (u * step + i * width)) * 4), piece);
          for (int64_t n = 0; n < each; ++n)
            for (int64_t j = 0; j < lanes; ++j) {
              Val &sum = sums[i * each + n];
              sum = fma(element(w[u * each + n], j), element(y, j), sum);
            }
        }
      return sums;
    };
    SmallVector<Val> sums(count * each, k.f32(0));
    Val mine = k.lane() * lanes;
    int64_t unrolled = s.hidden / (step * unroll) * (step * unroll), whole = s.hidden / step * step;
    sums = k.loop(k.i32(0), k.i32(unrolled), step * unroll, sums,
                  [&](Val c, ArrayRef<Val> carried) { return add(c + mine, unroll, carried); });
    sums = k.loop(k.i32(unrolled), k.i32(whole), step, sums,
                  [&](Val c, ArrayRef<Val> carried) { return add(c + mine, 1, carried); });
    if (whole < s.hidden)
      sums = k.choose(
          lt(mine + whole, s.hidden), [&] { return add(mine + whole, 1, sums); },
          [&] { return sums; });
    for (int64_t i = 0; i < count; ++i)
      for (int64_t n = 0; n < each; ++n) {
        Val logit = k.warpSum(sums[i * each + n]);
        k.ifThen(k.one() & lt(e + n, s.experts),
                 [&] { k.store(k.offset(logits, (e + (i * s.experts + n)) * 4), logit); });
      }
  }

  // The best expert of token t, whose logits are those of this warp. Ties go to the lowest.
  void choose(Val t) {
    auto better = [&](ArrayRef<Val> best, Val logit, Val e) {
      Val wins = isBefore({logit, e}, {best[0], best[1]});
      return SmallVector<Val>{select(wins, logit, best[0]), select(wins, e, best[1])};
    };
    auto best = k.stride(
        k.lane(), k.i32(s.experts), k.i32(32), {k.f32(-INFINITY), k.i32(s.experts)},
        [&](Val e, ArrayRef<Val> best) {
          return better(best, k.load(k.offset(logits, (k.warp() * s.experts + e) * 4), k.f32()), e);
        });
    for (int64_t mask = 16; mask; mask /= 2)
      best = better(best, k.shuffleXor(best[0], mask), k.shuffleXor(best[1], mask));
    k.ifThen(k.one(), [&] {
      // Where no logit compares, as with NaN, the first expert: the others index by it.
      k.store(k.offset(experts, t * 4), select(lt(best[1], s.experts), best[1], k.i32(0)));
      k.store(k.offset(scores, t * 4), k.sigmoid(best[0]));
    });
  }

  //===--- Groups --------------------------------------------------------------------------------

  // A stable counting sort. Each warp has a run of the tokens, and counts of its own: where its
  // tokens of an expert begin is a sum over the experts and the warps before it.
  void group() {
    int64_t columns = llvm::alignTo(s.experts, 32);
    Ptr counts = rows; // int32 [kWarps][columns]
    auto count = [&](Val w, Val e) { return k.offset(counts, (w * columns + e) * 4); };
    k.stride(k.thread(), k.i32(kWarps * columns), k.i32(k.threads),
             [&](Val i) { k.store(k.offset(counts, i * 4), k.i32(0)); });
    k.barrier();

    Val run = ceilDiv(k.tokens(), 32 * kWarps) * 32, begin = k.warp() * run;
    Val end = min(begin + run, k.tokens());
    // For each token of this warp: its expert, its rank among those of the same expert and the same
    // 32 tokens, how many these are, and whether there is such a token.
    auto each = [&](function_ref<void(Val, Val, Val, Val, Val)> body) {
      k.stride(begin, end, k.i32(32), [&](Val first) {
        Val t = first + k.lane(), valid = lt(t, end);
        Val e = k.choose(
            valid, [&] { return SmallVector<Val>{k.load(k.offset(experts, t * 4), k.i32())}; },
            [&] { return SmallVector<Val>{k.i32(-1)}; })[0];
        Val same = k.ptx("match.any.sync.b32 $0, $1, 0xffffffff;", k.i32(), {e}, "=r,r")[0];
        auto bits = [&](Val mask) {
          return k.ptx("popc.b32 $0, $1;", k.i32(), {mask}, "=r,r", /*effects=*/false)[0];
        };
        body(t, e, bits(same & ((k.i32(1) << k.lane()) - 1)), bits(same), valid);
        k.syncWarp();
      });
    };
    each([&](Val, Val e, Val rank, Val n, Val valid) {
      k.ifThen(valid & eq(rank, 0), [&] {
        Ptr at = count(k.warp(), e);
        k.store(at, k.load(at, k.i32()) + n);
      });
    });
    k.barrier();
    k.ifThen(eq(k.warp(), 0), [&] { begins(columns, count); });
    k.barrier();
    each([&](Val t, Val e, Val rank, Val n, Val valid) {
      k.ifThen(valid, [&] {
        Val place = k.load(count(k.warp(), e), k.i32()) + rank;
        k.store(k.offset(order, place * 4), t);
      });
      k.syncWarp();
      k.ifThen(valid & eq(rank, 0), [&] {
        Ptr at = count(k.warp(), e);
        k.store(at, k.load(at, k.i32()) + n);
      });
    });
  }

  // By one warp: turns counts into places, and tells where each expert's tokens begin.
  void begins(int64_t columns, function_ref<Ptr(Val, Val)> count) {
    int64_t each = columns / 32; // experts of a lane
    Val first = k.lane() * each, sum = k.i32(0);
    auto counts = [&](Val e, function_ref<void(Ptr, Val)> body) {
      for (int64_t w = 0; w < kWarps; ++w) {
        Ptr at = count(k.i32(w), e);
        body(at, k.load(at, k.i32()));
      }
    };
    for (int64_t j = 0; j < each; ++j)
      counts(first + j, [&](Ptr, Val n) { sum = sum + n; });
    Val place = k.warpScan(sum) - sum;
    for (int64_t j = 0; j < each; ++j) {
      k.ifThen(lt(first + j, s.experts),
               [&] { k.store(k.offset(offsets, (first + j) * 4), place); });
      counts(first + j, [&](Ptr at, Val n) {
        k.store(at, place);
        place = place + n;
      });
    }
    k.ifThen(k.one(), [&] { k.store(offsets + s.experts * 4, k.tokens()); });
  }

  CudaKernel &k;
  const CudaRouter &s;
  int64_t width = padded(s.hidden);
  // Experts that a warp scores at once, so that each load of a row is of use to more of them.
  int64_t each = s.experts <= kWarps ? 1 : s.experts <= 2 * kWarps ? 2 : 4;
  int64_t most = tokensAtOnce(s.hidden);
  Ptr h = k.operand(Operand::H), norm = k.operand(Operand::Norm),
      router = k.operand(Operand::Router), x = k.operand(Operand::X),
      experts = k.operand(Operand::Experts), scores = k.operand(Operand::Scores),
      order = k.operand(Operand::Order), offsets = k.operand(Operand::Offsets),
      counter = k.operand(Operand::Counters);
  Ptr rows = k.shared(std::max(most * width, kWarps *int64_t(llvm::alignTo(s.experts, 32))) * 4);
  Ptr logits = k.shared(most * s.experts * 4), arrived = k.shared(4);
  NormRows norms{k, most, s.hidden, s.eps, rows};
};
} // namespace

void CudaRouter::emit(CudaKernel &k) const {
  k.threads = kWarps * 32;
  Router(k, *this).run();
}

} // namespace moe::codegen
