// Attention over paged keys and values, with an online softmax in base 2.
//
// One tile is a few consecutive tokens of one sequence and one key-value head; the query heads that
// share it are rows of the same product. A key that a row may not see gets a score so low that its
// weight is exactly 0, and a page of nothing else changes no bit of the result.
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
  Ptr ids = k.scratch(maxRows * 4);
  Ptr finished = k.scratch(group * c.headDim * 4); // a token's channels of a key-value head

  Val position(Val token) { return k.convert((positions + token * 4).load(k.i32()), k.i64()); }

  // body(first row, count) for tiles of rows.
  void inTiles(Val rows, llvm::function_ref<void(Val, Val)> body) {
    k.loop(k.i64(0), rows, k.target.tileTokens,
           [&](Val r) { body(r, min(rows - r, k.i64(k.target.tileTokens))); });
  }

  void scorePage(Val rows, Ptr keys) {
    constexpr int64_t stride = kPageTokens * 4;
    inTiles(rows, [&](Val r, Val count) {
      k.product(c.keyFormat(), {queries, queryBytes, ids + r * 4}, count, keys, c.headDim,
                {scores, stride, ids + r * 4});
    });
  }

  // Adds a page's weighted values, 64 channels at a time.
  void sumPage(Val rows, Ptr panels) {
    for (int64_t p = 0; p < width / kPanel; ++p)
      inTiles(rows, [&](Val r, Val count) {
        Rows x{weights, weightBytes, ids + r * 4};
        Rows to{sums + p * kPanel * 4, width * 4, ids + r * 4};
        Ptr panel = panels + p * c.valuePanelBytes();
        if (c.quantized())
          k.tiles("values", x, count, panel, kPageTokens / 4, to,
                  [&](const TileOperands &tile) { emitValueTile(k, tile); });
        else
          k.product({.element = c.storage}, x, count, panel, kPageTokens, to, /*add=*/true);
      });
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
    k.channels(width, [&](Val channel, int64_t n) {
      Ptr o = sums + row * (width * 4) + channel * 4;
      o.store(o.load(k.vec(n, k.f32())) * rescale);
    });
  }

  // Divides by the weights' total, and writes what the head's queries give to their tokens' rows.
  void finish(Val first, Val count, Val head) {
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

  // Tokens first .. first + count - 1, all of one sequence, and key-value head `head`.
  void tile(Val first, Val count, Val head) {
    Val rows = count * group;
    k.loop(k.i64(0), rows, 1, [&](Val r) {
      Ptr from = q + ((first + r / group) * s.heads + head * group + r % group) * queryBytes;
      k.channels(queryBytes / 4, [&](Val word, int64_t n) {
        (queries + r * queryBytes + word * 4).store((from + word * 4).load(k.vec(n, k.i32())));
      });
      k.channels(width, [&](Val channel, int64_t n) {
        (sums + r * (width * 4) + channel * 4).store(k.constant(k.vec(n, k.f32()), 0));
      });
      (maxima + r * 4).store(k.f32(kUnseen));
      (totals + r * 4).store(k.f32(0));
    });
    Val sequence = k.convert((sequences + first * 4).load(k.i32()), k.i64());
    Val firstPage = firstVisible(c, position(first)) / kPageTokens;
    Val lastPage = position(first + count - 1) / kPageTokens;
    k.loop(firstPage, lastPage + 1, 1, [&](Val page) {
      Val entry = sequence * k.tableStride + page;
      Val block = k.convert((blocks + entry * 4).load(k.i32()), k.i64());
      Ptr keys = cache + (block * c.pageBytes + head * c.headBytes());
      Ptr values = keys + c.keyBytes();
      scorePage(rows, keys);
      k.loop(k.i64(0), rows, 1,
             [&](Val r) { softmax(r, first + r / group, page * kPageTokens, values); });
      sumPage(rows, values + c.valueHeadBytes());
    });
    finish(first, count, head);
  }
};
} // namespace

void CpuAttention::emit(CpuKernel &k) const {
  AttentionOperands operands{k.operand(Operand::Positions),  k.operand(Operand::Sequences),
                             k.operand(Operand::BlockTable), k.operand(Operand::Q),
                             k.operand(Operand::Cache),      k.operand(Operand::AttentionOut)};
  emitAttentionTiles(k, *this, operands, [&](Val block, Val head) {
    return eq((block * cache.heads + head) % k.workers, k.worker);
  });
}

void emitAttentionTiles(CpuKernel &k, const CpuAttention &s, const AttentionOperands &operands,
                        llvm::function_ref<Val(Val, Val)> mine) {
  Attention a{k, s, operands};
  k.loop(0, a.maxRows, 1, [&](Val i) { (a.ids + i * 4).store(k.convert(i, k.i32())); });
  auto sequence = [&](Val token) { return (a.sequences + token * 4).load(k.i32()); };
  k.loop(k.i64(0), k.tokens, a.tileTokens, [&](Val begin) {
    Val end = min(begin + a.tileTokens, k.tokens);
    // A tile begins where the block does, or where another sequence does.
    k.loop(begin, end, 1, [&](Val t) {
      Val before = max(t - 1, k.i64(0));
      Val starts = eq(t, begin) | (k.constant(k.i1(), 1) - eq(sequence(t), sequence(before)));
      k.ifThen(starts, [&] {
        auto length =
            k.loop(t + 1, end, 1, {k.i64(1), k.constant(k.i1(), 1)},
                   [&](Val i, llvm::ArrayRef<Val> carried) {
                     Val same = carried[1] & eq(sequence(i), sequence(t));
                     return llvm::SmallVector<Val>{
                         carried[0] + k.convert(k.convert(same, k.i32()) & 1, k.i64()), same};
                   })[0];
        k.loop(0, s.cache.heads, 1, [&](Val head) {
          k.ifThen(mine(begin / a.tileTokens, head), [&] { a.tile(t, length, head); });
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
