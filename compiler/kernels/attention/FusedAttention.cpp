// Attention of small steps, fused with the finishing of q, k and v before it.
//
// A piece of work is a token, a key-value head and a share of the positions. Keys and values of the
// step's own tokens are not in the cache yet: the first share finishes them itself, into shared
// memory, and writes those of its token to the cache, where no block of this step reads them. Each
// share leaves maxima, totals and sums; the last one to arrive joins them in order.
#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/attention/CudaJoiner.h"
#include "compiler/kernels/attention/Math.h"
#include "compiler/kernels/qkv/CudaFinisher.h"

using namespace mlir;

namespace moe::codegen {

namespace {

constexpr int64_t kWarps = Joiner::warps, kThreads = kWarps * 32;
constexpr int64_t kRingBytes = 64 << 10; // leaves room for the next kernel's blocks
static_assert(kSmallTokens <= kWarps, "a warp finishes the key and value of a token");

struct Fused {
  CudaKernel &k;
  const FinishSpec &s;
  int64_t splits;
  const CacheSpec &c = s.cache;
  TileLayout layout{c.headDim};
  int64_t group =
      headsTogether(s.heads / c.heads, fusedRows(c.headDim)); // heads of a piece of work
  int64_t pieces = s.heads / group;                           // of work, of a token

  Ptr positions = k.operand(Operand::Positions), sequences = k.operand(Operand::Sequences),
      table = k.operand(Operand::BlockTable), sums = k.operand(Operand::Sums),
      cache = k.operand(Operand::Cache), out = k.operand(Operand::AttentionOut),
      partials = k.operand(Operand::Partials), counters = k.operand(Operand::Counters);
  Ptr partialStats = partials + kSmallTokens * s.heads * splits * c.headDim * 4;

  Ring ring{k, std::clamp<int64_t>(kRingBytes / layout.bytes(), 2, 8), layout.bytes(), kWarps};
  TileLayout queryLayout{c.headDim, group}, freshLayout{c.headDim, 16};
  Ptr queries = k.shared(queryLayout.bytes());
  Ptr freshKeys = k.shared(freshLayout.bytes()), freshValues = k.shared(freshLayout.bytes());
  Ptr arrived = k.shared(4);
  Joiner joiner{k, group, c.headDim};
  WarpAttention attention{k, c, kNineWarpRegisters};
  Finisher finisher{k, s, positions, sums,
                    s.rope ? std::optional(k.operand(Operand::RopeTable)) : std::optional<Ptr>()};

  Val input(Ptr from, Val token) { return k.load(k.offset(from, token * 4), k.i32(), true); }
  Val bit(Val bits, Val i) {
    return eq(k.val(arith::ShRUIOp::create(k, bits.value, i.value)) & 1, 1);
  }

  struct Work {
    Val token, firstHead, head, piece;
    Val position, sequence;
    Val share, shares;
    Val fresh; // bit u: the token may see token u of this step, or is it
    Span span; // what the share reads from the cache
  };
  // From the step's inputs alone, so before the previous kernel has ended.
  Work workOf(Val i) {
    Work w;
    w.share = i % splits;
    Val rest = i / splits;
    w.piece = rest % pieces;
    w.token = rest / pieces;
    w.firstHead = w.piece * group;
    w.head = w.firstHead / (s.heads / c.heads);
    w.position = input(positions, w.token);
    w.sequence = input(sequences, w.token);
    w.span.low = firstVisible(c, w.position);

    Val other = min(k.lane(), w.token);
    Val position = input(positions, other);
    Val seen =
        eq(input(sequences, other), w.sequence) & ge(position, w.span.low) & le(k.lane(), w.token);
    w.fresh = k.intrinsic("llvm.nvvm.vote.ballot.sync", k.i32(), {k.i32(-1), seen});
    Val cached = select(seen, position, w.position); // the end of what is in the cache
    for (int64_t mask = 16; mask; mask /= 2)
      cached = min(cached, k.shuffleXor(cached, mask));

    // Shares are of the pages up to the token's own, whatever the step's other tokens are.
    Val first = w.span.low / kPageTokens, pages = w.position / kPageTokens - first + 1;
    w.shares = min(pages, k.i32(splits));
    Val begin = first + w.share * pages / w.shares;
    Val end = first + (w.share + 1) * pages / w.shares;
    w.span.high = cached;
    w.span.firstPage = begin;
    Val useful = min(end, (cached + (kPageTokens - 1)) / kPageTokens);
    Val any = lt(w.share, w.shares) & lt(w.span.low, cached);
    w.span.pages = select(any, max(useful - begin, k.i32(0)), k.i32(0));
    return w;
  }

  Val eachWork(function_ref<void(const Work &, Val stage)> body) {
    Val works = k.tokens() * (pieces * splits);
    auto stage =
        k.stride(k.block(), works, k.blocks(), {k.i32(0)}, [&](Val i, ArrayRef<Val> stage) {
          Work w = workOf(i);
          k.waitForPrevious();
          k.ifThen(lt(w.share, w.shares), [&] { body(w, stage[0]); });
          return SmallVector<Val>{stage[0] + w.span.pages * 2};
        });
    k.waitForPrevious(); // of blocks without work
    return stage[0];
  }

  void produce(const Work &w, Val stage) {
    Ptr heads = cache + k.convert(w.head, k.i64()) * layout.headBytes();
    Ptr tableRow = table + k.convert(w.sequence * k.tableStride(), k.i64()) * 4;
    streamSpan(k, ring, c, stage, heads, tableRow, w.span);
  }

  // Rows of `queries`, and in the first share rows of the tokens in `fresh`.
  void finish(const Work &w) {
    for (int64_t first = 0; first < group; first += kWarps) {
      Val row = k.warp() + first;
      auto query = [&] {
        finisher.query(w.token, w.firstHead + row, [&](Val pair, Val packed) {
          finisher.storePair(queries, queryLayout, row, pair, packed);
        });
      };
      first + kWarps <= group ? query() : k.ifThen(lt(row, k.i32(group)), query);
    }
    k.ifThen(eq(w.share, 0), [&] {
      Val token = k.i32(kWarps - 1) - k.warp(); // the last warps have no query
      // Where token w.token goes in the cache; of several pieces of a head the first writes it.
      Val entry = w.sequence * k.tableStride() + w.position / kPageTokens;
      Ptr home = cache + (k.convert(input(table, entry), k.i64()) * c.pageBytes +
                          k.convert(w.head, k.i64()) * layout.headBytes());
      Val mine = eq(token, w.token) & eq(w.firstHead % (s.heads / c.heads), 0);
      Val homeRow = w.position % kPageTokens;
      auto keep = [&](Ptr fresh, Ptr cached) {
        return [=, this](Val pair, Val packed) {
          finisher.storePair(fresh, freshLayout, token, pair, packed);
          k.ifThen(mine, [&] { finisher.storePair(cached, layout, homeRow, pair, packed); });
        };
      };
      k.ifThen(bit(w.fresh, token), [&] {
        finisher.key(token, w.head, keep(freshKeys, home));
        finisher.value(token, w.head, keep(freshValues, home + layout.bytes()));
      });
    });
  }

  // All fresh tokens at once, by one warp. Rows of others hold zeros, or what was finite before.
  WarpAttention::State attendFresh(const Work &w, const WarpAttention::State &state,
                                   const WarpAttention::Queries &q) {
    // Bit i: position i + 2 (lane % 4).
    Val fresh = k.val(arith::ShRUIOp::create(k, w.fresh.value, ((k.lane() & 3) * 2).value));
    return attention.attend(state, q, freshKeys, 16, k.constant(k.i1(), 1),
                            [&](int64_t i, int64_t) { return eq(k.shiftRight(fresh, i) & 1, 1); },
                            {freshLayout, [] {}, [&] { return freshValues; }, [] {}});
  }

  Ptr outRow(const Work &w) {
    return out + k.convert(w.token, k.i64()) * (padded(s.heads * c.headDim) * 2);
  }
  void storeResult(const Work &w, Val row, Val channel, const Quad &values, Val total) {
    Ptr to = k.offset(outRow(w), ((w.firstHead + row) * c.headDim + channel) * 2);
    values.storeBf16(to, 1 / total);
  }

  // Of each share and row: head_dim sums; a maximum and a total.
  Val partialRow(const Work &w, Val share, Val row) {
    return ((w.token * pieces + w.piece) * splits + share) * group + row;
  }

  void leavePartial(const Work &w) {
    joiner.each([&](Val row, Val channel, const Joiner::Joined &joined) {
      Val index = partialRow(w, w.share, row);
      k.store(k.offset(partials, index * (c.headDim * 4) + channel * 4),
              k.vectorOf(joined.values.x));
      k.ifThen(eq(channel, 0), [&] {
        k.store(k.offset(partialStats, index * 8), k.vectorOf({joined.maximum, joined.total}));
      });
    });
  }

  void joinShares(const Work &w) {
    int64_t quads = c.headDim / 4;
    k.stride(k.here(k.thread()), k.i32(group * quads), k.i32(kThreads), [&](Val i) {
      Val row = i / quads, channel = i % quads * 4;
      // All loads at once; shares that do not exist read the last one and weigh nothing.
      SmallVector<Val> maxima, totals, values;
      for (int64_t n = 0; n < splits; ++n) {
        Val index = partialRow(w, min(k.i32(n), w.shares - 1), row);
        Val both = k.load(k.offset(partialStats, index * 8), k.vec(2, k.f32()));
        maxima.push_back(k.at(both, 0));
        totals.push_back(k.at(both, 1));
        values.push_back(
            k.load(k.offset(partials, index * (c.headDim * 4) + channel * 4), k.vec(4, k.f32())));
      }
      Val highest = maxima[0];
      for (Val m : maxima)
        highest = max(highest, m);
      Val total = k.f32(0);
      Quad sum(k);
      for (int64_t n = 0; n < splits; ++n) {
        Val weight = select(lt(k.i32(n), w.shares), weightOf(k, maxima[n], highest), k.f32(0));
        total = fma(totals[n], weight, total);
        sum.add(values[n], weight);
      }
      storeResult(w, row, channel, sum, total);
    });
  }

  void consume(const Work &w, Val stage) {
    k.barrier(1, kThreads); // the shared memory of the last piece of work was read
    finish(w);
    k.barrier(1, kThreads);
    auto q = attention.fromShared(queries, group);
    Val turn = k.shiftRight(k.warp(), 2);
    auto state = attention.attendSpan(
        attention.start(), q, ring, stage, w.span, kPageTokens / 4, (k.warp() & 3) * 16,
        [&](Val tile) { return eq(tile & 1, turn); }, {w.position, w.position}, w.position);
    Val first = eq(w.share, 0);
    state = k.choose(
        first & eq(k.warp(), kWarps - 1), [&] { return attendFresh(w, state, q); },
        [&] { return state; });
    joiner.put(attention, state);
    k.barrier(1, kThreads);
    if (padded(s.heads * c.headDim) != s.heads * c.headDim)
      k.ifThen(first & eq(w.piece, 0), [&] { clearPadding(k, outRow(w), s.heads * c.headDim); });

    auto alone = [&] {
      joiner.each([&](Val row, Val channel, const Joiner::Joined &joined) {
        storeResult(w, row, channel, joined.values, joined.total);
      });
    };
    if (splits == 1)
      return alone();
    k.ifElse(eq(w.shares, 1), alone, [&] {
      leavePartial(w);
      k.barrier(1, kThreads);
      Ptr counter = k.offset(counters, (w.token * pieces + w.piece) * 4);
      k.ifThen(eq(k.thread(), 0), [&] { k.store(arrived, k.atomicAdd(counter, k.i32(1))); });
      k.barrier(1, kThreads);
      k.ifThen(eq(k.load(arrived, k.i32()), w.shares - 1), [&] {
        joinShares(w);
        k.ifThen(eq(k.thread(), 0), [&] { k.store(counter, k.i32(0)); });
      });
    });
  }

  void emit() {
    // Rows of values that no token writes must not be NaN.
    k.stride(k.thread() * 16, k.i32(freshLayout.bytes()), k.i32(k.threads * 16), [&](Val at) {
      Val zero = k.constant(k.vec(4, k.i32()), 0);
      k.store(k.offset(freshKeys, at), zero);
      k.store(k.offset(freshValues, at), zero);
    });
    k.barrier();
    k.startNext();
    k.ifElse(
        eq(k.warp(), kWarps),
        [&] { eachWork([&](const Work &w, Val stage) { produce(w, stage); }); },
        [&] { eachWork([&](const Work &w, Val stage) { consume(w, stage); }); });
  }
};

} // namespace

void CudaFusedAttention::emit(CudaKernel &k) const {
  k.threads = kThreads + 32;
  Fused{k, finish, splits}.emit();
}

} // namespace moe::codegen
