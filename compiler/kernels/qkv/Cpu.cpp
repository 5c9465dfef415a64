// RMSNorm and the q, k, v projections; the epilogue finishes each head and appends k and v. In
// programs of few tokens attention follows at once, without a barrier.
#include "compiler/kernels/attention/AttentionTiles.h"
#include "compiler/kernels/qkv/Math.h"
#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

namespace {
struct Finisher {
  CpuKernel &k;
  const FinishSpec &s;
  const CacheSpec &c = s.cache;
  Ptr positions = k.operand(Operand::Positions), sequences = k.operand(Operand::Sequences),
      blocks = k.operand(Operand::BlockTable), q = k.operand(Operand::Q),
      cache = k.operand(Operand::Cache);
  int64_t bytes = bytesOf(c.storage), rowBytes = padded(c.headDim) * 4;
  Ptr ropeTable = s.rope ? k.operand(Operand::RopeTable) : Ptr{};
  // A finished head in the storage type; in I8 a piece of codes (ActivationRow).
  Ptr stored = k.scratch(padded(c.headDim) * bytes + (c.quantized() ? 64 : 0));

  void rotate(Ptr row, Val token) {
    Ptr table = ropeTable + token * rowBytes;
    k.channels(c.headDim, [&](Val channel, int64_t lanes) {
      Val x = (row + channel * 4).load(k.vec(lanes, k.f32()));
      Val t = (table + channel * 4).load(k.vec(lanes, k.f32()));
      (row + channel * 4).store(k.rotatePairs(x, t));
    });
  }

  void scale(Ptr row, Val factor, Ptr to, Storage storage) {
    k.channels(c.headDim, [&](Val channel, int64_t lanes) {
      Val x = (row + channel * 4).load(k.vec(lanes, k.f32()));
      (to + channel * bytesOf(storage)).store(k.toStorage(x * factor, storage));
    });
  }

  Val normFactor(Ptr row) {
    return s.qkNorm ? k.inverseRms(k.sumOfSquares(row, c.headDim), c.headDim, *s.qkNorm) : k.f32(1);
  }

  void query(Ptr row, Val token, Val head) {
    if (s.rope)
      rotate(row, token);
    Val factor = queryFactor(
        normFactor(row), c.headDim, s.temperature,
        [&] { return k.convert((positions + token * 4).load(k.i32()), k.f32()); },
        [&](Val x) { return k.convert(k.log(k.convert(x, k.f64())), k.f32()); });
    Ptr to = q + (token * s.heads + head) * c.queryRow().bytes();
    if (c.quantized()) {
      scale(row, factor, row, Storage::F32);
      k.quantize(row, c.queryRow(), c.headDim, to);
      return;
    }
    scale(row, factor, to, c.storage);
    for (int64_t i = c.headDim; i < padded(c.headDim); ++i)
      (to + i * bytes).store(k.constant(k.typeOf(c.storage), 0));
  }

  // Where this head's part of the token's page begins, and the token's place in it.
  std::pair<Ptr, Val> slot(Val token, Val head) {
    Val position = k.convert((positions + token * 4).load(k.i32()), k.i64());
    Val sequence = k.convert((sequences + token * 4).load(k.i32()), k.i64());
    Val entry = sequence * k.tableStride + position / kPageTokens;
    Val page = k.convert((blocks + entry * 4).load(k.i32()), k.i64());
    return {cache + (page * c.pageBytes + head * c.headBytes()), position % kPageTokens};
  }

  // Quantizes a finished head to `stored`, its scale to where the page has that.
  void quantize(Ptr row, Ptr scaleAt) {
    k.quantizePiece(row, c.queryRow(), c.headDim, stored);
    scaleAt.store((stored + ActivationRow::scaleAt).load(k.f32()));
  }

  // Keys are a panel with a position in each row: 4 bytes (a float, a pair, or four codes) every
  // 256.
  void key(Ptr row, Val token, Val head) {
    if (s.rope)
      rotate(row, token);
    scale(row, normFactor(row), c.quantized() ? row : stored,
          c.quantized() ? Storage::F32 : c.storage);
    auto [page, position] = slot(token, head);
    if (c.quantized()) {
      quantize(row, page + position * 4);
      Ptr to = page + kPageTokens * 4 + position * 4, codes = stored + c.queryRow().codesAt();
      k.loop(0, llvm::divideCeil(c.headDim, 4), 1, [&](Val i) {
        Val unit = (codes + i * 4).load(k.i32());
        (to + i * (kPanel * 4)).store(unit ^ int32_t(0x80808080)); // 128 more in each byte
      });
      return;
    }
    Ptr to = page + position * 4;
    k.loop(0, c.headDim * bytes / 4, 1,
           [&](Val i) { (to + i * (kPanel * 4)).store((stored + i * 4).load(k.i32())); });
  }

  // Values are panels with a channel in each row.
  void value(Ptr row, Val token, Val head) {
    auto [page, position] = slot(token, head);
    Ptr panels = page + (c.keyBytes() + c.valueHeadBytes());
    if (c.quantized()) {
      quantize(row, page + c.keyBytes() + position * 4);
      Ptr to = panels + (position / 4 * (kPanel * 4) + position % 4);
      Ptr codes = stored + c.queryRow().codesAt();
      k.loop(0, c.headDim, 1, [&](Val i) {
        Ptr at = to + i / kPanel * c.valuePanelBytes() + i % kPanel * 4;
        at.store((codes + i).load(k.getI8Type()) ^ -128);
      });
      return;
    }
    if (c.storage == Storage::F32) {
      Ptr to = panels + position * (kPanel * 4);
      for (int64_t panel = 0; panel < padded(c.headDim) / kPanel; ++panel)
        k.channels(std::min(kPanel, c.headDim - panel * kPanel), [&](Val channel, int64_t lanes) {
          Val x = (row + panel * kPanel * 4 + channel * 4).load(k.vec(lanes, k.f32()));
          (to + panel * c.valuePanelBytes() + channel * 4).store(x);
        });
      return;
    }
    scale(row, k.f32(1), stored, c.storage);
    Ptr to = panels + (position / 2 * (kPanel * 4) + position % 2 * 2);
    k.loop(0, c.headDim, 1, [&](Val i) {
      Ptr at = to + i / kPanel * c.valuePanelBytes() + i % kPanel * 4;
      at.store((stored + i * 2).load(k.bf16()));
    });
  }
};
} // namespace

void CpuQkv::emit(CpuKernel &k) const {
  Finisher finisher{k, finish};
  const ActivationRow row{format, hidden};
  const CacheSpec &cache = finish.cache;
  Ptr x, h, norm;
  if (prepared) {
    x = k.operand(Operand::X);
  } else {
    h = k.operand(Operand::H);
    norm = k.operand(Operand::Norm);
  }
  Ptr weight = k.operand(Operand::Weight);
  int64_t width = padded(hidden), headDim = padded(cache.headDim);
  int64_t panels = headDim / kPanel, tile = k.tileTokens(format);
  Ptr out = k.scratch(tile * headDim * 4), ids = k.identity();
  if (!prepared) {
    x = k.scratch(0, row.bytes());
    k.loop(k.i64(0), k.tokens, 1,
           [&](Val t) { k.normRow(h + t * (width * 4), norm, eps, row, x + t * row.bytes()); });
  }
  // A worker's heads, in the order of the weight or, where attention follows, of the key-value
  // heads that they belong to: the queries of one, its keys, its values.
  int64_t keys = finish.heads, values = finish.heads + cache.heads, all = values + cache.heads;
  int64_t group = finish.heads / cache.heads, each = group + 2;
  Ptr counters = attention ? k.operand(Operand::Counters) : Ptr{};
  std::optional<Claims> claimed;
  if (claims())
    claimed = k.claims(panels * panelBytes(format, hidden));
  k.parts(k.i64(all), claimed, [&](Val first, Val last) {
    k.loop(first, last, 1, [&](Val unit) {
      Val head = unit;
      if (attention) {
        Val kv = unit / each, part = unit % k.i64(each);
        head = select(lt(part, group), kv * group + part,
                      select(eq(part, group), kv + keys, kv + values));
      }
      k.loop(k.i64(0), k.tokens, tile, [&](Val t) {
        Val count = min(k.tokens - t, k.i64(tile));
        // In programs of few tokens the next head is elsewhere, and one tile has them all.
        std::optional<Turn> turn;
        if (!attention)
          turn = k.turn(t, k.tokens, tile, panels);
        for (int64_t p = 0; p < panels; ++p)
          k.product(format, {x, row.bytes(), ids + t * 4}, count,
                    weight + (head * panels + p) * panelBytes(format, hidden), hidden,
                    {out + p * kPanel * 4, headDim * 4, ids}, /*add=*/false, turn);
        k.loop(k.i64(0), count, 1, [&](Val i) {
          Ptr row = out + i * (headDim * 4);
          k.ifThen(lt(head, keys), [&] { finisher.query(row, t + i, head); });
          k.ifThen(k.val((ge(head, keys) & lt(head, values)).value),
                   [&] { finisher.key(row, t + i, head - keys); });
          k.ifThen(ge(head, values), [&] { finisher.value(row, t + i, head - values); });
        });
      });
      if (attention)
        k.arrive(counters + (unit / each * 4 + CpuQkv::parts));
    });
  });
  if (!attention)
    return;
  const CpuAttention tiles{finish.heads, *attention, cache};
  AttentionOperands operands{finisher.positions, finisher.sequences,
                             finisher.blocks,    finisher.q,
                             finisher.cache,     k.operand(Operand::AttentionOut)};
  const SharedSegments shared{k.operand(Operand::Partials), counters + segments()};
  emitAttentionTiles(k, tiles, operands, counters + claimedPieces, shared,
                     [&](Val head) { k.await(counters + (head * 4 + CpuQkv::parts), each); });
  k.leave(counters + left, k.tokens * (cache.heads * 4) + (segments() - left));
}

} // namespace moe::codegen
