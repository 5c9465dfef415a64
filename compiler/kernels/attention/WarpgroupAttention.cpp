// A warpgroup's attention: products by wgmma, in a pipeline of one tile.
#include "compiler/kernels/attention/WarpgroupAttention.h"
#include "compiler/kernels/attention/CudaMask.h"
#include "compiler/kernels/attention/CudaSoftmax.h"

using namespace mlir;

namespace moe::codegen {

namespace {
constexpr int64_t kFirstTurn = 3; // the named barrier of the first warpgroup's turn
constexpr int64_t kBoth = 256;    // threads
} // namespace

WarpgroupAttention::WarpgroupAttention(CudaKernel &k, const CacheSpec &cache)
    : k(k), layout{cache.headDim}, cache(cache), type(halfOf(cache.storage)) {}

// A warpgroup waits at the barrier of its turn for the other one to arrive there.
void WarpgroupAttention::takeTurn() {
  k.ptx("bar.sync $0, " + std::to_string(kBoth) + ";", {}, {k.shiftRight(k.warp(), 2) + kFirstTurn},
        "r,~{memory}");
}
void WarpgroupAttention::passTurn() {
  k.ptx("bar.arrive $0, " + std::to_string(kBoth) + ";", {},
        {(kFirstTurn + 1) - k.shiftRight(k.warp(), 2)}, "r,~{memory}");
}
// The first turn is the first warpgroup's. So is the last one, which nobody else takes.
void WarpgroupAttention::begin() {
  k.ifThen(ge(k.warp(), 4), [&] { passTurn(); });
}
void WarpgroupAttention::end() {
  k.ifThen(lt(k.warp(), 4), [&] { takeTurn(); });
}

// Columns are positions: steps are of channels.
SharedOperand WarpgroupAttention::keys(Ptr tile) {
  SharedOperand b{tile, layout.rowBytes(), /*byColumn=*/true};
  for (int64_t channel = 0; channel < layout.headDim; channel += 16) {
    int64_t chunk = channel / 8, period = layout.period();
    b.steps.push_back(chunk / period * layout.panelBytes() + chunk % period * 16);
  }
  return b;
}

// Columns are channels: steps are of positions.
SharedOperand WarpgroupAttention::values(Ptr tile) {
  SharedOperand b{tile, layout.rowBytes(), /*byColumn=*/false, layout.panelBytes()};
  for (int64_t position = 0; position < kPageTokens; position += 16)
    b.steps.push_back(position * layout.rowBytes());
  return b;
}

WarpAttention::State WarpgroupAttention::attendSpan(const WarpAttention::Queries &queries,
                                                    Ring &ring, Val stage, const Span &span,
                                                    Val mine, std::array<Val, 2> high, Val sure) {
  int64_t sums = cache.headDim / 2;
  auto keysOf = [&](Val tile) { return stage + tile * 2; };
  auto valuesOf = [&](Val tile) { return stage + tile * 2 + 1; };

  auto attend = [&] {
    SmallVector<Val> q;
    for (int64_t step = 0; step < cache.headDim / 16; ++step)
      llvm::append_range(q, queries(step));
    auto beginScores = [&](Ptr tile) {
      return beginWgmma(k, type, {}, kPageTokens, q, keys(tile));
    };
    auto beginSums = [&](ArrayRef<Val> state, ArrayRef<Val> weights, Ptr tile) {
      return beginWgmma(k, type, state.drop_front(4), cache.headDim, weights, values(tile));
    };
    // Scores of a tile that are there, as weights not yet rounded.
    auto weights = [&](MutableArrayRef<Val> state, ArrayRef<Val> scores, Val tile,
                       std::array<Val, 2> &shrink) {
      Val position = (span.firstPage + tile) * kPageTokens;
      TileMask mask = TileMask::of(k, cache, span, position, kPageTokens, high, sure);
      auto x = maskScores(k, scores, mask.masked,
                          [&](int64_t i, int64_t half) { return mask.visible(i, half); });
      shrink = weigh(k, state, x);
      return x;
    };

    // Carried: the state, and the last tile's weights, whose values are still to be added.
    SmallVector<Val> carried(4 + sums, k.f32(0));
    carried[0] = carried[1] = k.f32(kUnseen);
    std::array<Val, 2> shrink;
    Val first = k.i32(0);
    Ptr tile = ring.await(keysOf(first));
    takeTurn();
    auto scores = beginScores(tile);
    passTurn();
    scores = awaitWgmma(k, scores, q);
    ring.release(keysOf(first));
    carried.append(packWeights(k, type, weights(carried, scores, first, shrink)));
    ring.await(valuesOf(first));
    carried =
        k.stride(k.i32(1), span.pages, k.i32(1), carried, [&](Val tile, ArrayRef<Val> carried) {
          WarpAttention::State state(carried.take_front(4 + sums));
          ArrayRef<Val> before = carried.drop_front(4 + sums);
          Ptr place = ring.await(keysOf(tile));
          takeTurn();
          auto scores = beginScores(place);
          auto out = beginSums(state, before, ring.at(valuesOf(tile - 1)));
          passTurn();
          scores = awaitWgmma(k, scores, q, /*inFlight=*/1);
          ring.release(keysOf(tile));
          std::array<Val, 2> shrink;
          auto x = weights(state, scores, tile, shrink);
          // For the next turn. Waited for here, as ptxas moves the wait for the products up to what
          // is a loop, and these are to be under way until the weights are made.
          ring.await(valuesOf(tile));
          out = awaitWgmma(k, out, before);
          ring.release(valuesOf(tile - 1));
          for (int64_t n = 0; n < sums; ++n)
            state[4 + n] = out[n] * shrink[n / 2 % 2];
          state.append(packWeights(k, type, x));
          return state;
        });
    Val last = valuesOf(span.pages - 1);
    ArrayRef<Val> state = ArrayRef(carried).take_front(4 + sums),
                  left = ArrayRef(carried).drop_front(4 + sums);
    auto out = awaitWgmma(k, beginSums(state, left, ring.at(last)), left);
    ring.release(last);
    WarpAttention::State result(state.take_front(4));
    result.append(out);
    return result;
  };

  auto pass = [&] {
    k.stride(k.i32(0), span.pages, k.i32(1), [&](Val tile) {
      for (Val stage : {keysOf(tile), valuesOf(tile)}) {
        ring.await(stage); // no warp may be a round ahead of the others
        ring.release(stage);
      }
      takeTurn();
      passTurn();
    });
    return WarpAttention::State(4 + sums, k.f32(0));
  };
  return k.choose(mine, attend, pass);
}

} // namespace moe::codegen
