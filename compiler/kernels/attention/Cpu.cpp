// Attention over paged keys and values, with an online softmax in base 2.
//
// One tile is a few consecutive tokens of one sequence and one key-value head; the query heads that
// share it are rows of the same product. While a page is worked on, the next one is fetched. A key
// that a row may not see gets a score so low that its weight is exactly 0, and a page of nothing
// else changes no bit of the result.
#include "compiler/kernels/attention/AttentionTiles.h"
#include "compiler/kernels/attention/Math.h"
#include "compiler/targets/cpu/CpuKernel.h"
#include "compiler/targets/cpu/ValueTile.h"

namespace moe::codegen {

namespace {
struct Attention {
  CpuKernel &k;
  const CpuAttention &s;
  const AttentionOperands &operands;
  const CacheSpec &c = s.cache;
  int64_t group = s.heads / c.heads, tileTokens = std::max<int64_t>(1, 24 / group);
  int64_t width = padded(c.headDim), maxRows = tileTokens * group;
  int64_t queryBytes = c.queryRow().bytes();
  int64_t weightBytes = c.quantized() ? PageWeights::bytes : kPageTokens * bytesOf(c.storage);

  Ptr positions = operands.positions, sequences = operands.sequences, blocks = operands.blocks,
      q = operands.q, cache = operands.cache, out = operands.out;
  Ptr queries = k.scratch(maxRows * queryBytes);
  Ptr scores = k.scratch(maxRows * kPageTokens * 4);
  Ptr weights = k.scratch(maxRows * weightBytes); // of the softmax, not yet divided
  Ptr sums = k.scratch(maxRows * width * 4);      // weighted values
  Ptr maxima = k.scratch(maxRows * 4), totals = k.scratch(maxRows * 4);
  // Of all segments so far, where there are several.
  Ptr foldedSums = k.scratch(maxRows * width * 4);
  Ptr foldedMaxima = k.scratch(maxRows * 4), foldedTotals = k.scratch(maxRows * 4);
  Ptr ids = k.scratch(maxRows * 4);
  Ptr finished = k.scratch(group * c.headDim * 4); // a token's channels of a key-value head

  Val position(Val token) { return k.convert((positions + token * 4).load(k.i32()), k.i64()); }

  Val sequence(Val token) { return (sequences + token * 4).load(k.i32()); }

  // Pages of a segment: a power of two, as small as the number of segments allows.
  Val segmentPages(Val token) {
    Val p = position(token);
    Val pages = p / kPageTokens - firstVisible(c, p) / kPageTokens + 1;
    return k.i64(kShortestSegment) << (64 - leadingZeros((pages - 1) / (32 * kShortestSegment)));
  }

  // body(first row, count, what to fetch) for tiles of rows; the first one fetches what lies at
  // `next` as its panel does here.
  void inTiles(Val rows, Ptr next,
               llvm::function_ref<void(Val, Val, const std::optional<FetchAhead> &)> body) {
    int64_t tile = k.tileTokens(c.keyFormat());
    body(k.i64(0), min(rows, k.i64(tile)), FetchAhead{next, k.i64(kPanel * 4), kPanel * 4});
    k.loop(k.i64(tile), rows, tile,
           [&](Val r) { body(r, min(rows - r, k.i64(tile)), std::nullopt); });
  }

  void scorePage(Val rows, Ptr keys, Ptr next) {
    constexpr int64_t stride = kPageTokens * 4;
    inTiles(rows, next, [&](Val r, Val count, const std::optional<FetchAhead> &ahead) {
      k.product(c.keyFormat(), {queries, queryBytes, ids + r * 4}, count, keys, c.headDim,
                {scores, stride, ids + r * 4}, /*add=*/false, ahead);
    });
  }

  // Adds a page's weighted values, 64 channels at a time.
  void sumPage(Val rows, Ptr panels, Ptr next) {
    for (int64_t p = 0; p < width / kPanel; ++p) {
      int64_t at = p * c.valuePanelBytes();
      inTiles(rows, next + at, [&](Val r, Val count, const std::optional<FetchAhead> &ahead) {
        Rows x{weights, weightBytes, ids + r * 4};
        Rows to{sums + p * kPanel * 4, width * 4, ids + r * 4};
        if (c.quantized())
          k.tiles(
              "values", x, count, panels + at, kPageTokens / 4, to, k.target.codeTokens,
              [&](const TileOperands &tile) { emitValueTile(k, tile); }, ahead);
        else
          k.product({.element = c.storage}, x, count, panels + at, kPageTokens, to, /*add=*/true,
                    ahead);
      });
    }
  }

  // Turns a row's scores of one page into weights, and rescales what was summed before.
  // `valueScales`: of int8 values.
  void softmax(Val row, Val token, Val firstKey, Ptr valueScales) {
    int64_t lanes = k.target.lanes;
    Val p = position(token);
    Val low = k.convert(firstVisible(c, p) - firstKey, k.i32());
    Val high = k.convert(p - firstKey, k.i32());
    Ptr score = scores + row * (kPageTokens * 4);
    llvm::SmallVector<Val> x, visible, scaled;
    Val highest = k.constant(k.vec(lanes, k.f32()), kUnseen);
    for (int64_t i = 0; i < kPageTokens; i += lanes) {
      Val key = k.iota(lanes) + double(i);
      Val seen = ge(key, k.broadcast(low, lanes)) & le(key, k.broadcast(high, lanes));
      visible.push_back(seen);
      x.push_back(select(seen, (score + i * 4).load(k.vec(lanes, k.f32())), k.f32(kUnseen)));
      highest = max(highest, x.back());
    }
    Val before = (maxima + row * 4).load(k.f32());
    Val now = max(before, k.maximum(highest));
    Val total = k.constant(k.vec(lanes, k.f32()), 0);
    Ptr to = weights + row * weightBytes;
    for (int64_t i = 0; i < kPageTokens; i += lanes) {
      Val w = weightOf(k, x[i / lanes], now);
      total = total + w;
      if (c.quantized()) // where nothing was written yet, a scale may be anything
        scaled.push_back(select(visible[i / lanes],
                                w * (valueScales + i * 4).load(k.vec(lanes, k.f32())), k.f32(0)));
      else
        (to + i * bytesOf(c.storage)).store(k.toStorage(w, c.storage));
    }
    if (c.quantized())
      quantizeWeights(k, scaled, to);
    Val rescale = weightOf(k, before, now);
    (maxima + row * 4).store(now);
    Ptr at = totals + row * 4;
    at.store(fma(at.load(k.f32()), rescale, k.sum(total)));
    // Far into a context the maximum seldom grows.
    k.ifThen(gt(now, before), [&] {
      k.channels(width, [&](Val channel, int64_t n) {
        Ptr o = sums + row * (width * 4) + channel * 4;
        o.store(o.load(k.vec(n, k.f32())) * rescale);
      });
    });
  }

  // Divides by the weights' total, and writes what the head's queries give to their tokens' rows.
  void finish(Val first, Val count, Val head, Ptr sums, Ptr totals) {
    const ActivationRow row{s.output, s.channels()};
    int64_t channels = group * c.headDim;
    int64_t unitBytes = s.outputsFloats() ? 4 : row.unitBytes();
    int64_t units = s.outputsFloats() ? channels : channels / row.unit();
    k.loop(k.i64(0), count, 1, [&](Val t) {
      Ptr to = out + (first + t) * s.outputBytes() + head * (units * unitBytes);
      for (int64_t i = 0; i < group; ++i) {
        Val r = t * group + i;
        Val inverse = k.f32(1) / (totals + r * 4).load(k.f32());
        k.channels(c.headDim, [&](Val channel, int64_t n) {
          Val o = (sums + r * (width * 4) + channel * 4).load(k.vec(n, k.f32())) * inverse;
          if (row.quantized())
            ((s.outputsFloats() ? to : finished) + i * (c.headDim * 4) + channel * 4).store(o);
          else
            (to + i * (c.headDim * unitBytes) + channel * unitBytes)
                .store(k.toStorage(o, row.storage()));
        });
      }
      if (row.quantized() && !s.outputsFloats())
        k.quantize(finished, row, channels, to);
    });
  }

  void loadQueries(Val first, Val rows, Val head) {
    k.loop(k.i64(0), rows, 1, [&](Val r) {
      Ptr from = q + ((first + r / group) * s.heads + head * group + r % group) * queryBytes;
      k.channels(queryBytes / 4, [&](Val word, int64_t n) {
        (queries + r * queryBytes + word * 4).store((from + word * 4).load(k.vec(n, k.i32())));
      });
    });
  }

  void clear(Val rows, Ptr sums, Ptr maxima, Ptr totals) {
    k.loop(k.i64(0), rows, 1, [&](Val r) {
      k.channels(width, [&](Val channel, int64_t n) {
        (sums + r * (width * 4) + channel * 4).store(k.constant(k.vec(n, k.f32()), 0));
      });
      (maxima + r * 4).store(k.f32(kUnseen));
      (totals + r * 4).store(k.f32(0));
    });
  }

  // Sums, maximum and total of a row.
  struct Softmax {
    Ptr sums, maximum, total;
  };
  Softmax segmentOf(Val row) {
    return {sums + row * (width * 4), maxima + row * 4, totals + row * 4};
  }

  // Adds the segment that comes next to what is folded of a row.
  void fold(Val row, const Softmax &segment) {
    Ptr maximum = foldedMaxima + row * 4, total = foldedTotals + row * 4;
    Val before = maximum.load(k.f32()), other = segment.maximum.load(k.f32());
    Val now = max(before, other);
    Val old = weightOf(k, before, now), added = weightOf(k, other, now);
    maximum.store(now);
    total.store(fma(segment.total.load(k.f32()), added, total.load(k.f32()) * old));
    k.channels(width, [&](Val channel, int64_t n) {
      Ptr o = foldedSums + row * (width * 4) + channel * 4;
      Val sum = (segment.sums + channel * 4).load(k.vec(n, k.f32()));
      o.store(fma(sum, k.broadcast(added, n), o.load(k.vec(n, k.f32())) * old));
    });
  }
  void fold(Val rows, llvm::function_ref<Softmax(Val)> segmentOf) {
    k.loop(k.i64(0), rows, 1, [&](Val r) { fold(r, segmentOf(r)); });
  }

  // Tokens first .. first + count - 1, all of one sequence and with segments of one length, and a
  // key-value head.
  struct Tile {
    Val first, count, head, rows;
    Val firstPage, lastPage, pages; // of all, and of a segment
    Val firstSegment, segments;
  };
  Tile tileOf(Val first, Val count, Val head) {
    Val firstPage = firstVisible(c, position(first)) / kPageTokens;
    Val lastPage = position(first + count - 1) / kPageTokens, pages = segmentPages(first);
    Val firstSegment = firstPage / pages;
    return {first,         count,        head,
            count * group, firstPage,    lastPage,
            pages,         firstSegment, lastPage / pages - firstSegment + 1};
  }

  // One of the segments, from 0.
  void segment(const Tile &t, Val index) {
    clear(t.rows, sums, maxima, totals);
    Val row = k.convert(sequence(t.first), k.i64()) * k.tableStride;
    auto headOf = [&](Val page) {
      Val block = k.convert((blocks + (row + page) * 4).load(k.i32()), k.i64());
      return cache + (block * c.pageBytes + t.head * c.headBytes());
    };
    Val begin = (t.firstSegment + index) * t.pages, end = begin + t.pages;
    k.loop(max(begin, t.firstPage), min(end, t.lastPage + 1), 1, [&](Val page) {
      Ptr keys = headOf(page), next = headOf(min(page + 1, t.lastPage));
      int64_t values = c.keyBytes();
      scorePage(t.rows, keys, next);
      k.loop(k.i64(0), t.rows, 1,
             [&](Val r) { softmax(r, t.first + r / group, page * kPageTokens, keys + values); });
      int64_t panels = values + c.valueHeadBytes();
      sumPage(t.rows, keys + panels, next + panels);
    });
  }

  // All segments, one after the other.
  void whole(const Tile &t) {
    loadQueries(t.first, t.rows, t.head);
    Val several = gt(t.segments, 1);
    k.ifThen(several, [&] { clear(t.rows, foldedSums, foldedMaxima, foldedTotals); });
    k.loop(k.i64(0), t.segments, 1, [&](Val index) {
      segment(t, index);
      k.ifThen(several, [&] { fold(t.rows, [&](Val r) { return segmentOf(r); }); });
    });
    k.ifThen(several, [&] { finish(t.first, t.count, t.head, foldedSums, foldedTotals); });
    k.ifThen(eq(t.segments, 1), [&] { finish(t.first, t.count, t.head, sums, totals); });
  }

  // Where a row of a shared segment is.
  Softmax partialOf(const SharedSegments &shared, const Tile &t, Val index, Val row) {
    int64_t bytes = SharedSegments::rowBytes(c);
    Val slot = ((t.first + row / group) * c.heads + t.head) * kMostSegments + index;
    Ptr sums = shared.partials + (slot * group + row % group) * bytes;
    return {sums, sums + width * 4, sums + (width * 4 + 4)};
  }

  // One segment that others may have the rest of.
  void part(const SharedSegments &shared, const Tile &t, Val index) {
    loadQueries(t.first, t.rows, t.head);
    segment(t, index);
    k.ifThen(eq(t.segments, 1), [&] { finish(t.first, t.count, t.head, sums, totals); });
    k.ifThen(gt(t.segments, 1), [&] {
      k.loop(k.i64(0), t.rows, 1, [&](Val r) {
        Softmax from = segmentOf(r), to = partialOf(shared, t, index, r);
        k.channels(width, [&](Val channel, int64_t n) {
          (to.sums + channel * 4).store((from.sums + channel * 4).load(k.vec(n, k.f32())));
        });
        to.maximum.store(from.maximum.load(k.f32()));
        to.total.store(from.total.load(k.f32()));
      });
      Val before = k.arrive(shared.counters + (t.first * c.heads + t.head) * 4);
      k.ifThen(eq(before + 1, t.segments), [&] {
        clear(t.rows, foldedSums, foldedMaxima, foldedTotals);
        k.loop(k.i64(0), t.segments, 1, [&](Val index) {
          fold(t.rows, [&](Val r) { return partialOf(shared, t, index, r); });
        });
        finish(t.first, t.count, t.head, foldedSums, foldedTotals);
      });
    });
  }
};
} // namespace

void CpuAttention::emit(CpuKernel &k) const {
  AttentionOperands operands{k.operand(Operand::Positions),  k.operand(Operand::Sequences),
                             k.operand(Operand::BlockTable), k.operand(Operand::Q),
                             k.operand(Operand::Cache),      k.operand(Operand::AttentionOut)};
  Ptr counters = k.operand(Operand::Counters);
  emitAttentionTiles(k, *this, operands, counters + 64, std::nullopt, [](Val) {});
  k.leave(counters, k.i64(bytes(Operand::Counters, {})));
}

void emitAttentionTiles(CpuKernel &k, const CpuAttention &s, const AttentionOperands &operands,
                        Ptr claims, const std::optional<SharedSegments> &shared,
                        llvm::function_ref<void(Val)> ready) {
  Attention a{k, s, operands};
  k.loop(0, a.maxRows, 1, [&](Val i) { (a.ids + i * 4).store(k.convert(i, k.i32())); });
  // Where a small step has one segment of each head, a worker attends with the heads that it made.
  Val claimed = k.constant(k.i1(), 1);
  if (shared)
    claimed = gt(k.loop(k.i64(0), k.tokens, 1, {k.i64(1)},
                        [&](Val token, llvm::ArrayRef<Val> most) {
                          auto tile = a.tileOf(token, k.i64(1), k.i64(0));
                          return llvm::SmallVector<Val>{max(most[0], tile.segments)};
                        })[0],
                 1);
  Pieces pieces(k, claimed, claims);
  // Whether a token is of the tile of the one before it.
  auto joins = [&](Val token) {
    Val before = max(token - 1, k.i64(0));
    return eq(a.sequence(token), a.sequence(before)) &
           eq(a.segmentPages(token), a.segmentPages(before));
  };
  k.loop(k.i64(0), k.tokens, a.tileTokens, [&](Val begin) {
    Val end = min(begin + a.tileTokens, k.tokens);
    k.loop(begin, end, 1, [&](Val t) {
      Val starts = eq(t, begin) | (k.constant(k.i1(), 1) - joins(t));
      k.ifThen(starts, [&] {
        auto length =
            k.loop(t + 1, end, 1, {k.i64(1), k.constant(k.i1(), 1)},
                   [&](Val i, llvm::ArrayRef<Val> carried) {
                     Val same = carried[1] & joins(i);
                     return llvm::SmallVector<Val>{
                         carried[0] + k.convert(k.convert(same, k.i32()) & 1, k.i64()), same};
                   })[0];
        k.loop(0, s.cache.heads, 1, [&](Val head) {
          auto tile = a.tileOf(t, length, head);
          Val owner = head * k.workers / s.cache.heads;
          if (!shared)
            return pieces.piece(owner, [&] { a.whole(tile); });
          k.loop(k.i64(0), tile.segments, 1, [&](Val index) {
            pieces.piece(owner, [&] {
              ready(head);
              a.part(*shared, tile, index);
            });
          });
        });
      });
    });
  });
  // The padding of the output rows feeds a product: it must be zero.
  const ActivationRow row{s.output, s.channels()};
  if (!row.quantized() && row.columns != padded(row.columns))
    k.ifThen(eq(k.worker, 0), [&] {
      k.loop(k.i64(0), k.tokens, 1, [&](Val t) {
        for (int64_t c = row.columns; c < padded(row.columns); ++c)
          (a.out + t * row.bytes() + c * row.unitBytes())
              .store(k.constant(k.typeOf(row.storage()), 0));
      });
    });
}

} // namespace moe::codegen
