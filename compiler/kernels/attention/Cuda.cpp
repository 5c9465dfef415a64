// Implements what the kernels of attention share.
#include "compiler/kernels/attention/Cuda.h"
#include <numbers>

using namespace mlir;

namespace moe::codegen {

static Val wide(CudaKernel &k, Val x) { return k.convert(x, k.i64()); }

Val here(CudaKernel &k, Val x) {
  return k.ptx("mov.b32 $0, $1;", x.type(), {x}, x.isFloat() ? "=f,f" : "=r,r")[0];
}

Val offsetIn(TileLayout layout, Val row, Val chunk, bool firstPanel) {
  int64_t period = layout.period();
  Val turn = row / (8 / period) % period, at = row * layout.rowBytes();
  if (firstPanel || layout.panels() == 1)
    return at + (chunk ^ turn) * 16;
  return chunk / period * layout.panelBytes() + at + (chunk % period ^ turn) * 16;
}

Val firstVisible(const CacheSpec &cache, Val position) {
  return cache.chunk ? position - position % cache.chunk : constantLike(position, 0);
}

//===----------------------------------------------------------------------===//
// Finishing q, k and v
//===----------------------------------------------------------------------===//

Finisher::Finisher(CudaKernel &k, const FinishSpec &spec, Ptr positions, Ptr sums,
                   std::optional<Ptr> rope)
    : k(k), s(spec), positions(positions), sums(sums), rope(rope) {}

// A lane without an i-th pair takes the last one for zeros.
Finisher::Pairs Finisher::sum(Val token, Val head) {
  lane = here(k, k.lane());
  Ptr row = sums + (wide(k, token) * (s.rows() * 4) + wide(k, head * (s.cache.headDim * 4)));
  Val splitBytes = wide(k, k.tokens()) * (s.rows() * 4);
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
  Ptr table = *rope + wide(k, token) * (padded(s.cache.headDim) * 4);
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
  // The softmax is in base 2: exp(x / sqrt(d)) = 2^(x log2(e) / sqrt(d)).
  Val factor = normFactor(x) * (std::numbers::log2e / std::sqrt(double(s.cache.headDim)));
  if (s.temperature) {
    auto [scale, floor] = *s.temperature;
    Val position = k.convert(k.load(k.offset(positions, token * 4), k.i32(), true), k.f32());
    Val steps = k.floor((position + 1) / double(floor));
    // Off by 2^-22 of the logarithm.
    Val log = k.ptx("lg2.approx.ftz.f32 $0, $1;", k.f32(), {steps + 1}, "=f,f", false)[0] *
              std::numbers::ln2;
    factor = factor * (log * double(scale) + 1);
  }
  give(x, factor, each);
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

//===----------------------------------------------------------------------===//
// Keys and values from the cache
//===----------------------------------------------------------------------===//

// Rows [begin, end) of a tile become zero; by all lanes.
static void clearRows(CudaKernel &k, TileLayout layout, Ptr tile, Val begin, Val end) {
  int64_t row = layout.rowBytes();
  Val zero = k.constant(k.vec(4, k.i32()), 0);
  k.stride(begin * row + k.lane() * 16, end * row, k.i32(512), [&](Val at) {
    for (int64_t panel = 0; panel < layout.panels(); ++panel) {
      Ptr to = k.offset(tile, at) + panel * layout.panelBytes();
      if (k.target.bulkCopies)
        k.store(to, zero);
      else // as the copies beside them, so that one arrival speaks for both
        k.copy16(to, k.operand(0), k.constant(k.i1(), 0));
    }
  });
}

// Brings rows [begin, end) of a tile into a stage.
static void fill(CudaKernel &k, Ring &ring, TileLayout layout, Val stage, Ptr from, Val begin,
                 Val end, bool clear) {
  Ptr place = ring.acquire(stage);
  if (clear)
    k.ifThen(lt(end - begin, k.i32(kPageTokens)), [&] {
      clearRows(k, layout, place, k.i32(0), begin);
      clearRows(k, layout, place, end, k.i32(kPageTokens));
      if (k.target.bulkCopies) // which will write to these rows in the next round
        k.ptx("fence.proxy.async.shared::cta;", {}, {}, "~{memory}");
      k.syncWarp();
    });
  Val skipped = begin * layout.rowBytes(), bytes = (end - begin) * layout.rowBytes();
  ring.begin(stage, bytes * layout.panels());
  auto copy = [&](int64_t panel, Val bytes) {
    int64_t at = panel * layout.panelBytes();
    ring.copy(stage, k.offset(place, skipped) + at, k.offset(from, skipped) + at, bytes);
  };
  if (layout.panels() == 1)
    copy(0, bytes);
  else
    k.ifElse(
        eq(end - begin, kPageTokens), [&] { copy(0, k.i32(layout.bytes())); },
        [&] {
          for (int64_t panel = 0; panel < layout.panels(); ++panel)
            copy(panel, bytes);
        });
  ring.end(stage);
}

Val streamSpan(CudaKernel &k, Ring &ring, const CacheSpec &cache, Val stage, Ptr heads,
               Ptr tableRow, const Span &span, bool clearKeys) {
  TileLayout layout{cache.headDim};
  k.stride(k.i32(0), span.pages, k.i32(32), [&](Val some) {
    // A lane looks up one page of 32.
    Val mine = span.firstPage + min(some + k.lane(), span.pages - 1);
    Val entry = k.load(k.offset(tableRow, mine * 4), k.i32(), true);
    k.stride(some, min(some + 32, span.pages), k.i32(1), [&](Val tile) {
      Ptr page = heads + wide(k, k.shuffle(entry, tile - some)) * cache.pageBytes;
      Val first = (span.firstPage + tile) * kPageTokens;
      Val begin = max(span.low - first, k.i32(0));
      Val end = min(span.high - first, k.i32(kPageTokens));
      fill(k, ring, layout, stage + tile * 2, page, begin, end, clearKeys);
      fill(k, ring, layout, stage + tile * 2 + 1, page + layout.bytes(), begin, end,
           /*clear=*/true);
    });
  });
  return stage + span.pages * 2;
}

//===----------------------------------------------------------------------===//
// Scores and weights
//===----------------------------------------------------------------------===//

Sight Sight::of(CudaKernel &k, const CacheSpec &cache, const Span &span, Val position,
                int64_t count, std::array<Val, 2> high, Val sure) {
  Val last = span.high - 1, own = position + (k.lane() & 3) * 2;
  Sight s;
  s.masked = lt(min(sure, last), position + (count - 1));
  s.high = {min(high[0], last) - own, min(high[1], last) - own};
  if (cache.chunk % kPageTokens) { // a chunk may begin inside a page
    s.masked = s.masked | lt(position, span.low);
    s.low = span.low - own;
  }
  return s;
}

Val Sight::visible(int64_t i, int64_t half) const {
  Val seen = ge(high[half], i);
  return low ? seen & le(*low, i) : seen;
}

SmallVector<Val> maskScores(CudaKernel &k, ArrayRef<Val> scores, Val masked,
                            function_ref<Val(int64_t i, int64_t half)> visible) {
  return k.choose(
      masked,
      [&] {
        SmallVector<Val> all;
        for (auto [n, x] : llvm::enumerate(scores))
          all.push_back(select(visible(n / 4 * 8 + n % 2, n / 2 % 2), x, k.f32(kUnseen)));
        return all;
      },
      [&] { return SmallVector<Val>(scores); });
}

std::array<Val, 2> weigh(CudaKernel &k, MutableArrayRef<Val> state, MutableArrayRef<Val> scores) {
  std::array<Val, 2> shrink;
  for (int64_t half = 0; half < 2; ++half) {
    auto each = [&](auto body) {
      for (size_t n = half * 2; n < scores.size(); n += 4)
        for (size_t i = 0; i < 2; ++i)
          body(scores[n + i]);
    };
    Val highest = state[half];
    each([&](Val &x) { highest = max(highest, x); });
    highest = max(highest, k.shuffleXor(highest, 1));
    highest = max(highest, k.shuffleXor(highest, 2));
    // What was summed before shrinks by the growth of the maximum.
    shrink[half] = k.exp2(state[half] - highest);
    Val total = state[2 + half] * shrink[half];
    each([&](Val &x) {
      x = k.exp2(x - highest);
      total = total + x;
    });
    state[half] = highest;
    state[2 + half] = here(k, total);
  }
  return shrink;
}

// Scores of 16 positions lie in a lane as the weights' fragment wants them.
SmallVector<Val> packWeights(CudaKernel &k, Half type, ArrayRef<Val> weights) {
  SmallVector<Val> packed;
  for (size_t n = 0; n < weights.size(); n += 2)
    packed.push_back(k.pack(type, weights[n], weights[n + 1]));
  return packed;
}

static void scaleSums(WarpAttention::State &state, std::array<Val, 2> factors) {
  for (size_t n = 4; n < state.size(); ++n)
    state[n] = state[n] * factors[n / 2 % 2];
}

static void addProduct(CudaKernel &k, Half type, ArrayRef<Val> a, ArrayRef<Val> b, Val *sums) {
  llvm::copy(k.mma(type, a, b, {sums[0], sums[1], sums[2], sums[3]}), sums);
}

//===----------------------------------------------------------------------===//
// A warp's attention
//===----------------------------------------------------------------------===//

WarpAttention::WarpAttention(CudaKernel &k, const CacheSpec &cache, int64_t registers)
    : layout{cache.headDim}, k(k), type(halfOf(cache.storage)), steps(cache.headDim / 16),
      cache(cache) {
  // A thread has headDim / 2 sums, headDim / 4 registers of queries, half a score a position, and
  // what else a loop needs.
  int64_t left = registers - cache.headDim * 3 / 4 - 72;
  keepsQueries = left >= 0;
  piece = left >= 32 ? 64 : left >= 0 ? 32 : 16;
  // Lane 8 m + r gives row r of matrix m. Keys: both halves of the channels, then the next 8
  // positions. Values: the next 8 positions, then the next 8 channels.
  Val m = k.shiftRight(k.lane(), 3), r = k.lane() & 7;
  keyOffsets = laneOffsets(k.shiftRight(m, 1) * 8 + r, m & 1);
  valueOffsets = laneOffsets((m & 1) * 8 + r, k.shiftRight(m, 1));
}

SmallVector<Val> WarpAttention::laneOffsets(Val row, Val chunk) {
  SmallVector<Val> offsets;
  for (int64_t i = 0; i < layout.period(); i += 2) // two chunks a step
    offsets.push_back(offsetIn(layout, row, chunk + i, /*firstPanel=*/true));
  return offsets;
}

Ptr WarpAttention::fragment(Ptr tile, TileLayout layout, ArrayRef<Val> offsets, int64_t step) {
  int64_t turns = offsets.size();
  // In 32 bits: offsets that loops keep would take two registers each.
  Val address = k.addressOf(tile) + offsets[step % turns];
  Ptr at = k.ptr(LLVM::IntToPtrOp::create(k, tile.value.getType(), address.value));
  return at + step / turns * layout.panelBytes();
}

WarpAttention::Queries WarpAttention::kept(const Queries &loaded) {
  if (!keepsQueries)
    return loaded;
  SmallVector<std::array<Val, 4>> all;
  for (int64_t step = 0; step < steps; ++step)
    all.push_back(loaded(step));
  return [all](int64_t step) { return all[step]; };
}

WarpAttention::Queries WarpAttention::fromShared(Ptr tile, int64_t rows) {
  Val m = k.shiftRight(k.lane(), 3), row = min((m & 1) * 8 + (k.lane() & 7), k.i32(rows - 1));
  auto offsets = laneOffsets(row, k.shiftRight(m, 1));
  TileLayout own{layout.headDim, rows};
  return kept(
      [=, this](int64_t step) { return k.loadMatrices(fragment(tile, own, offsets, step)); });
}

WarpAttention::Queries WarpAttention::fromGlobal(Ptr row, Ptr rowPlus8) {
  Val lane = (k.lane() & 3) * 4;
  Ptr low = k.offset(row, lane), high = k.offset(rowPlus8, lane);
  return kept([=, this](int64_t step) {
    std::array<Val, 4> a;
    for (int64_t i = 0; i < 4; ++i)
      a[i] = k.load((i % 2 ? high : low) + (step * 32 + i / 2 * 16), k.i32());
    return a;
  });
}

WarpAttention::State WarpAttention::start() {
  State state(4 + steps * 8, k.f32(0));
  state[0] = state[1] = k.f32(kUnseen);
  return state;
}

SmallVector<Val> WarpAttention::scores(const Queries &queries, TileLayout layout, Ptr keys,
                                       int64_t count) {
  SmallVector<Val> s(count / 2, k.f32(0));
  for (int64_t step = 0; step < steps; ++step) {
    auto a = queries(step);
    for (int64_t i = 0; i < count; i += 16) {
      auto b = k.loadMatrices(fragment(keys + i * layout.rowBytes(), layout, keyOffsets, step));
      for (int64_t j = 0; j < 2; ++j)
        addProduct(k, type, a, {b[2 * j], b[2 * j + 1]}, &s[(i / 8 + j) * 4]);
    }
  }
  return s;
}

void WarpAttention::addValues(State &state, ArrayRef<Val> weights, TileLayout layout, Ptr values) {
  for (size_t i = 0; i < weights.size() / 4; ++i)
    for (int64_t step = 0; step < steps; ++step) {
      Ptr at = fragment(values + i * 16 * layout.rowBytes(), layout, valueOffsets, step);
      auto b = k.loadMatrices(at, /*transposed=*/true);
      for (int64_t j = 0; j < 2; ++j)
        addProduct(k, type, weights.slice(i * 4, 4), {b[2 * j], b[2 * j + 1]},
                   &state[4 + (step * 2 + j) * 4]);
    }
}

WarpAttention::State WarpAttention::attend(const State &before, const Queries &queries, Ptr keys,
                                           int64_t count, Val masked,
                                           function_ref<Val(int64_t i, int64_t half)> visible,
                                           const Tile &tile) {
  State state = before;
  int64_t piece = std::min(count, this->piece);
  std::optional<Ptr> values;
  for (int64_t first = 0; first < count; first += piece) {
    if (!keepsQueries) // queries are loaded anew, not kept from piece to piece
      k.ptx("", {}, {}, "~{memory}");
    auto x = scores(queries, tile.layout, keys + first * layout.rowBytes(), piece);
    if (first + piece == count)
      tile.keysRead();
    x = maskScores(k, x, masked, [&](int64_t i, int64_t half) { return visible(first + i, half); });
    auto shrink = weigh(k, state, x);
    scaleSums(state, shrink);
    if (!values)
      values = tile.values();
    addValues(state, packWeights(k, type, x), tile.layout, *values + first * layout.rowBytes());
  }
  tile.valuesRead();
  return state;
}

WarpAttention::State WarpAttention::attendSpan(const State &start, const Queries &queries,
                                               Ring &ring, Val stage, const Span &span,
                                               int64_t count, Val first,
                                               function_ref<Val(Val tile)> mine,
                                               std::array<Val, 2> high, Val sure) {
  Val skipped = first * layout.rowBytes();
  return k.stride(k.i32(0), span.pages, k.i32(1), start, [&](Val tile, ArrayRef<Val> carried) {
    State before(carried);
    Val keys = stage + tile * 2, values = keys + 1;
    Ptr place = ring.await(keys);
    Val position = (span.firstPage + tile) * kPageTokens + first;
    Sight sight = Sight::of(k, cache, span, position, count, high, sure);
    auto attendTile = [&] {
      return attend(before, queries, k.offset(place, skipped), count, sight.masked,
                    [&](int64_t i, int64_t half) { return sight.visible(i, half); },
                    {layout, [&] { ring.release(keys); },
                     [&] { return k.offset(ring.await(values), skipped); },
                     [&] { ring.release(values); }});
    };
    auto passTile = [&] { // no warp may be a round ahead of the others
      ring.release(keys);
      ring.await(values);
      ring.release(values);
      return before;
    };
    return k.choose(mine(tile), attendTile, passTile);
  });
}

//===----------------------------------------------------------------------===//
// Joining warps
//===----------------------------------------------------------------------===//

Joiner::Joiner(CudaKernel &k, int64_t rows, int64_t headDim)
    : k(k), rows(rows), headDim(headDim), stride(headDim + kJoinedPad),
      values(k.shared(warps * rows * stride * 4)), stats(k.shared(warps * rows * 8)) {}

void Joiner::put(WarpAttention &attention, const WarpAttention::State &state) {
  Val thread = here(k, k.thread()), warp = k.shiftRight(thread, 5);
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
    Val weight = k.exp2(maxima[w] - highest);
    total = fma(totals[w], weight, total);
    sum.add(k.load(at + w * rows * stride * 4, k.vec(4, k.f32())), weight);
  }
  return {highest, total, sum};
}

void Joiner::each(function_ref<void(Val row, Val channel, const Joined &)> body) {
  int64_t quads = headDim / 4;
  k.stride(here(k, k.thread()), k.i32(rows * quads), k.i32(warps * 32), [&](Val i) {
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
