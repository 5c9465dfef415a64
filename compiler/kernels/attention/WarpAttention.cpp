// Implements a warp's attention.
#include "compiler/kernels/attention/WarpAttention.h"
#include "compiler/kernels/attention/CudaMask.h"
#include "compiler/kernels/attention/CudaSoftmax.h"

using namespace mlir;

namespace moe::codegen {

static void scaleSums(WarpAttention::State &state, std::array<Val, 2> factors) {
  for (size_t n = 4; n < state.size(); ++n)
    state[n] = state[n] * factors[n / 2 % 2];
}

static void addProduct(CudaKernel &k, Half type, ArrayRef<Val> a, ArrayRef<Val> b, Val *sums) {
  llvm::copy(k.mma(type, a, b, {sums[0], sums[1], sums[2], sums[3]}), sums);
}

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
    TileMask mask = TileMask::of(k, cache, span, position, count, high, sure);
    auto attendTile = [&] {
      return attend(before, queries, k.offset(place, skipped), count, mask.masked,
                    [&](int64_t i, int64_t half) { return mask.visible(i, half); },
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

} // namespace moe::codegen
