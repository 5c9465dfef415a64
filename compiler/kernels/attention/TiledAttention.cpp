// Attention of larger steps, over keys and values that are all in the cache already.
//
// A step is a mixture of pieces of prompts and of single tokens. A piece of work is a run of tokens
// with consecutive positions of one sequence and one chunk, and a key-value head: rows are its
// tokens times the query heads of the group, and the eight consumer warps share them, 16 each, as
// two warpgroups where there is wgmma. Of a single token there are too few rows for that, so there
// the warps share the positions.
#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/attention/CudaJoiner.h"
#include "compiler/kernels/attention/Math.h"
#include "compiler/kernels/attention/WarpgroupAttention.h"

using namespace mlir;

namespace moe::codegen {

namespace {

constexpr int64_t kWarps = Joiner::warps, kThreads = kWarps * 32;
constexpr int64_t kRegisters = 232; // of a consumer's thread, where they can be moved
constexpr int64_t kSlots = 8;       // tokens that a thread looks at for runs
constexpr int64_t kJoinBytes = 40 << 10, kSharedBytes = 163 << 10, kListBytes = 9 << 10;

struct Tiled {
  CudaKernel &k;
  const FinishSpec &s;
  const CacheSpec &c = s.cache;
  TileLayout layout{c.headDim};
  int64_t group = headsTogether(s.heads / c.heads, kTiledRows); // heads of a piece of work
  int64_t pieces = s.heads / group;                             // of work, of a run
  int64_t runTokens = tiledTokens(s.heads / c.heads);
  // Tokens whose runs are listed at once.
  int64_t window = kThreads * kSlots / runTokens * runTokens;

  Ptr positions = k.operand(Operand::Positions), sequences = k.operand(Operand::Sequences),
      table = k.operand(Operand::BlockTable), q = k.operand(Operand::Q),
      cache = k.operand(Operand::Cache), out = k.operand(Operand::AttentionOut);
  // What is left of the shared memory that every target has.
  int64_t ringBytes() const {
    return kSharedBytes - (joins() ? group * joinedBytes(c.headDim) : 0) - kListBytes;
  }
  bool joins() const { return group <= 16 && group * joinedBytes(c.headDim) <= kJoinBytes; }
  bool wgmma = WarpgroupAttention::covers(k.target, c);
  Ring ring{k, std::clamp<int64_t>(ringBytes() / layout.bytes(), 2, 8), layout.bytes(), kWarps,
            WarpgroupAttention::kAlignment};
  Ptr starts = k.shared((kThreads * kSlots + 1) * 4), counts = k.shared(kWarps * 4),
      listed = k.shared(4);
  WarpAttention attention{k, c, k.target.bulkCopies ? kRegisters : kNineWarpRegisters};
  WarpgroupAttention warpgroup{k, c};
  std::optional<Joiner> joiner;

  Tiled(CudaKernel &k, const FinishSpec &s) : k(k), s(s) {
    if (joins())
      joiner.emplace(k, group, c.headDim);
  }

  Val input(Ptr from, Val token) { return k.load(k.offset(from, token * 4), k.i32(), true); }

  Val bits(Val x) { return k.intrinsic("llvm.ctpop", k.i32(), {x}); }

  // Does a run start at slot `slot` of the window of `count` tokens from `first` on?
  Val startsRun(Val first, Val count, Val slot) {
    Val token = min(first + slot, k.tokens() - 1), before = max(token - 1, k.i32(0));
    Val position = input(positions, token);
    Val starts = eq(slot % runTokens, 0) | ne(input(sequences, token), input(sequences, before)) |
                 ne(position, input(positions, before) + 1);
    if (c.chunk)
      starts = starts | eq(position % c.chunk, 0);
    return starts & lt(slot, count);
  }

  // Lists where the runs of the window start, its end, and their number; by the consumers.
  void listRuns(Val first, Val count) {
    Val own = k.here(k.warp() * (32 * kSlots) + k.lane());
    SmallVector<Val> ballots;
    Val mine = k.i32(0);
    for (int64_t i = 0; i < kSlots; ++i) {
      ballots.push_back(k.intrinsic("llvm.nvvm.vote.ballot.sync", k.i32(),
                                    {k.i32(-1), startsRun(first, count, own + i * 32)}));
      mine = mine + bits(ballots.back());
    }
    k.ifThen(k.one(), [&] { k.store(k.offset(counts, k.warp() * 4), mine); });
    k.barrier(1, kThreads);
    Val at = k.i32(0), total = k.i32(0);
    for (int64_t w = 0; w < kWarps; ++w) {
      Val n = k.load(counts + w * 4, k.i32());
      at = at + select(ge(own, (w + 1) * (32 * kSlots)), n, k.i32(0));
      total = total + n;
    }
    Val me = k.i32(1) << (own & 31);
    for (auto [i, ballot] : llvm::enumerate(ballots)) {
      k.ifThen(eq(ballot & me, me), [&, ballot = ballot] {
        k.store(k.offset(starts, (at + bits(ballot & (me - 1))) * 4),
                first + own + int64_t(i) * 32);
      });
      at = at + bits(ballot);
    }
    k.ifThen(eq(k.thread(), 0), [&] {
      k.store(k.offset(starts, total * 4), first + count);
      k.store(listed, total);
    });
  }

  struct Work {
    Val number;
    Val token, tokens, position, sequence; // of the run's first token
    Val firstHead, head;                   // of queries, and the key-value head
    Span span;
  };
  Work workOf(Val number) {
    Val run = number / pieces;
    Work w;
    w.number = number;
    w.token = k.load(k.offset(starts, run * 4), k.i32());
    w.tokens = k.load(k.offset(starts, run * 4 + 4), k.i32()) - w.token;
    w.position = input(positions, w.token);
    w.sequence = input(sequences, w.token);
    w.firstHead = number % pieces * group;
    w.head = w.firstHead / (s.heads / c.heads);
    w.span.low = firstVisible(c, w.position);
    w.span.high = w.position + w.tokens;
    w.span.firstPage = w.span.low / kPageTokens;
    w.span.pages = (w.span.high - 1) / kPageTokens - w.span.firstPage + 1;
    return w;
  }

  // Calls `body` with the block's pieces of work and the count of stages so far; returns that
  // count. The last runs of a prompt are the longest and come first, and every other round goes
  // backwards, so that blocks get about the same.
  Val eachWork(Val runs, Val stage, function_ref<void(const Work &, Val stage)> body) {
    return k.stride(
        k.i32(0), runs * pieces, k.blocks(), {stage}, [&](Val round, ArrayRef<Val> stage) {
          Val backwards = round / k.blocks() & 1;
          Val i = round + select(eq(backwards, 0), k.block(), k.blocks() - 1 - k.block());
          return k.choose(
              lt(i, runs * pieces),
              [&] {
                Work w = workOf(runs * pieces - 1 - i);
                body(w, stage[0]);
                return SmallVector<Val>{stage[0] + w.span.pages * 2};
              },
              [&] { return SmallVector<Val>{stage[0]}; });
        })[0];
  }

  void produce(const Work &w, Val stage) {
    Ptr heads = cache + k.convert(w.head, k.i64()) * layout.headBytes();
    Ptr tableRow = table + k.convert(w.sequence * k.tableStride(), k.i64()) * 4;
    streamSpan(k, ring, c, stage, heads, tableRow, w.span, /*clearKeys=*/wgmma);
  }

  Ptr queryRow(const Work &w, Val row) {
    Val index = (w.token + row / group) * s.heads + w.firstHead + row % group;
    return q + k.convert(index, k.i64()) * (c.headDim * 2);
  }
  Ptr tokenOut(Val token) {
    return out + k.convert(token, k.i64()) * (padded(s.heads * c.headDim) * 2);
  }
  Ptr outRow(const Work &w, Val row) {
    return k.offset(tokenOut(w.token + row / group), (w.firstHead + row % group) * (c.headDim * 2));
  }

  // 16 rows a warp.
  void consumeRun(const Work &w, Val stage) {
    Val rows = w.tokens * group, last = rows - 1, first = k.warp() * 16;
    Val row = first + k.shiftRight(k.lane(), 2);
    Val real[2] = {min(row, last), min(row + 8, last)};
    auto queries = attention.fromGlobal(queryRow(w, real[0]), queryRow(w, real[1]));
    std::array<Val, 2> high{w.position + real[0] / group, w.position + real[1] / group};
    Val sure = w.position + min(first, last) / group;
    auto state = wgmma ? warpgroup.attendSpan(queries, ring, stage, w.span,
                                              lt(k.shiftRight(k.warp(), 2) * 64, rows), high, sure)
                       : attention.attendSpan(
                             attention.start(), queries, ring, stage, w.span, kPageTokens, k.i32(0),
                             [&](Val) { return lt(first, rows); }, high, sure);
    // Looked up again: the loop had better uses for registers.
    Work again = workOf(k.here(w.number));
    Val lane = k.here(k.lane());
    for (int64_t half = 0; half < 2; ++half) {
      Val inverse = 1 / attention.total(state, half);
      Val row = k.warp() * 16 + k.shiftRight(lane, 2) + half * 8;
      k.ifThen(lt(row, again.tokens * group), [&] {
        Ptr to = k.offset(outRow(again, row), (lane & 3) * 4);
        for (int64_t n = 0; n < c.headDim / 8; ++n)
          k.store(to + n * 16, k.pack(Half::BF16, attention.out(state, n, half * 2) * inverse,
                                      attention.out(state, n, half * 2 + 1) * inverse));
      });
    }
  }

  // The same rows for all warps; each takes a quarter of every second tile.
  void consumeToken(const Work &w, Val stage) {
    Val last = k.i32(group - 1), row = k.shiftRight(k.lane(), 2);
    auto queries =
        attention.fromGlobal(queryRow(w, min(row, last)), queryRow(w, min(row + 8, last)));
    Val turn = k.shiftRight(k.warp(), 2);
    auto state = attention.attendSpan(
        attention.start(), queries, ring, stage, w.span, kPageTokens / 4, (k.warp() & 3) * 16,
        [&](Val tile) { return eq(tile & 1, turn); }, {w.position, w.position}, w.position);
    k.barrier(1, kThreads); // the last token's results were read
    joiner->put(attention, state);
    k.barrier(1, kThreads);
    joiner->each([&](Val row, Val channel, const Joiner::Joined &joined) {
      joined.values.storeBf16(k.offset(outRow(w, row), channel * 2), 1 / joined.total);
    });
  }

  void consume(const Work &w, Val stage) {
    if (joiner)
      k.ifElse(eq(w.tokens, 1), [&] { consumeToken(w, stage); }, [&] { consumeRun(w, stage); });
    else
      consumeRun(w, stage);
    if (padded(s.heads * c.headDim) != s.heads * c.headDim)
      k.ifThen(eq(w.firstHead, 0), [&] {
        k.stride(w.token, w.token + w.tokens, k.i32(1),
                 [&](Val token) { clearPadding(k, tokenOut(token), s.heads * c.headDim); });
      });
  }

  // The program of the producer, or of a consumer warp.
  void eachWindow(function_ref<void(Val first, Val count)> list,
                  function_ref<void(const Work &, Val stage)> body) {
    Val windows = (k.tokens() + (window - 1)) / window;
    k.stride(k.i32(0), windows, k.i32(1), {k.i32(0)}, [&](Val n, ArrayRef<Val> stage) {
      Val first = (windows - 1 - n) * window;
      k.barrier(2, kThreads + 32); // nobody needs the last list any more
      list(first, min(k.tokens() - first, k.i32(window)));
      k.barrier(2, kThreads + 32);
      k.waitForPrevious();
      return SmallVector<Val>{eachWork(k.load(listed, k.i32()), stage[0], body)};
    });
  }

  void emit() {
    k.startNext();
    auto setRegisters = [&](StringRef change) {
      if (k.target.bulkCopies)
        k.ptx(("setmaxnreg." + change + ";").str(), {}, {}, "");
    };
    k.ifElse(
        lt(k.warp(), kWarps),
        [&] {
          setRegisters("inc.sync.aligned.u32 " + std::to_string(kRegisters));
          if (wgmma)
            warpgroup.begin();
          eachWindow([&](Val first, Val count) { listRuns(first, count); },
                     [&](const Work &w, Val stage) { consume(w, stage); });
          if (wgmma)
            warpgroup.end();
        },
        [&] {
          setRegisters("dec.sync.aligned.u32 40");
          k.ifThen(eq(k.warp(), kWarps), [&] {
            eachWindow([](Val, Val) {}, [&](const Work &w, Val stage) { produce(w, stage); });
          });
        });
  }
};

} // namespace

void CudaTiledAttention::emit(CudaKernel &k) const {
  // Registers move between groups of four warps, so the producer brings three that do nothing.
  k.threads = kThreads + (k.target.bulkCopies ? 128 : 32);
  Tiled(k, finish).emit();
}

} // namespace moe::codegen
