// Attention of a vision tower, a block of a head's queries after the other. A row's scores are all
// there before their softmax, so it needs no rescaling: 577 of them and 24 rows at once fit in the
// second-level cache beside the head's keys or values.
#include "compiler/kernels/attention/Math.h"
#include "compiler/kernels/tile_attention/TileAttention.h"
#include "compiler/targets/cpu/CpuKernel.h"
#include <numeric>

namespace moe::codegen {

namespace {
struct TileAttention {
  CpuKernel &k;
  const CpuTileAttention &s;
  const TileHeads &h = s.heads;
  const ActivationRow row{s.output, h.channels()};
  const int64_t lanes = k.target.lanes, tile = k.target.tileTokens(h.storage);
  const int64_t blockRows = std::max<int64_t>(1, 24 / tile) * tile;
  const int64_t scoreBytes = h.keyPanels() * kPanel * 4,
                weightBytes = llvm::alignTo(h.rows * bytesOf(h.storage), 64),
                width = padded(h.headDim);
  // Where a row of codes is quantized in units that heads do not divide, one worker makes all heads
  // that it takes to fill them.
  const int64_t headsAtOnce = headsOfUnit();
  Ptr scores = k.scratch(blockRows * scoreBytes), weights = k.scratch(blockRows * weightBytes),
      sums = k.scratch(blockRows * width * 4), totals = k.scratch(blockRows * 4),
      ids = k.scratch(blockRows * 4);
  Ptr floats = row.quantized() ? k.scratch(blockRows * headsAtOnce * h.headDim * 4) : Ptr{};
  Ptr q = k.operand(Operand::Q), keys = k.operand(Operand::Keys),
      values = k.operand(Operand::Values), out = k.operand(Operand::AttentionOut);

  int64_t headsOfUnit() const {
    if (!row.quantized())
      return 1;
    const int64_t heads = std::lcm(row.unit(), h.headDim) / h.headDim;
    return heads < h.heads && h.heads % heads == 0 ? heads : h.heads;
  }

  void inTiles(Val count, llvm::function_ref<void(Val, Val)> body) {
    k.loop(k.i64(0), count, tile, [&](Val r) { body(r, min(count - r, k.i64(tile))); });
  }

  // Turns a row's scores into weights, not yet divided by their total.
  void softmax(Val r) {
    const int64_t whole = h.rows / lanes * lanes, rest = h.rows - whole;
    mlir::Type floats = k.vec(lanes, k.f32());
    Ptr score = scores + r * scoreBytes, to = weights + r * weightBytes;
    Val seen = lt(k.iota(lanes), double(rest)); // of the last vector
    auto lastScores = [&] {
      return select(seen, (score + whole * 4).load(floats), k.f32(kUnseen));
    };
    Val highest =
        k.loop(k.i64(0), k.i64(whole), lanes, {k.constant(floats, kUnseen)},
               [&](Val key, llvm::ArrayRef<Val> most) {
                 return llvm::SmallVector<Val>{max(most[0], (score + key * 4).load(floats))};
               })[0];
    if (rest)
      highest = max(highest, lastScores());
    Val maximum = k.maximum(highest);
    auto weigh = [&](Val score, Ptr at) {
      Val w = weightOf(k, score, maximum);
      at.store(k.toStorage(w, h.storage));
      return w;
    };
    Val total = k.loop(k.i64(0), k.i64(whole), lanes, {k.constant(floats, 0)},
                       [&](Val key, llvm::ArrayRef<Val> sum) {
                         Val w =
                             weigh((score + key * 4).load(floats), to + key * bytesOf(h.storage));
                         return llvm::SmallVector<Val>{sum[0] + w};
                       })[0];
    if (rest)
      total = total + weigh(lastScores(), to + whole * bytesOf(h.storage));
    (totals + r * 4).store(k.sum(total));
  }

  // The weighted values of a head, for rows first... of a tile.
  void head(Val t, Val number, Val first, Val count) {
    Val at = t * h.heads + number;
    Ptr queries = q + (at * h.rows + first) * h.queryBytes();
    Ptr keyPanels = keys + at * (h.keyPanels() * h.keyPanelBytes());
    k.loop(0, h.keyPanels(), 1, [&](Val panel) {
      inTiles(count, [&](Val r, Val n) {
        k.product(h.format(), {queries + r * h.queryBytes(), h.queryBytes(), ids}, n,
                  keyPanels + panel * h.keyPanelBytes(), h.headDim,
                  {scores + r * scoreBytes + panel * (kPanel * 4), scoreBytes, ids});
      });
    });
    k.loop(k.i64(0), count, 1, [&](Val r) { softmax(r); });
    Ptr valuePanels = values + at * (h.valuePanels() * h.valuePanelBytes());
    k.loop(0, h.valuePanels(), 1, [&](Val panel) {
      inTiles(count, [&](Val r, Val n) {
        k.product(h.format(), {weights + r * weightBytes, weightBytes, ids}, n,
                  valuePanels + panel * h.valuePanelBytes(), h.rows,
                  {sums + r * (width * 4) + panel * (kPanel * 4), width * 4, ids});
      });
    });
  }

  // Divides what a head gave a row, and puts it at `to`.
  void finish(Val r, Ptr to, Storage storage) {
    Val inverse = k.f32(1) / (totals + r * 4).load(k.f32());
    k.channels(h.headDim, [&](Val c, int64_t n) {
      Val o = (sums + r * (width * 4) + c * 4).load(k.vec(n, k.f32())) * inverse;
      (to + c * bytesOf(storage)).store(k.toStorage(o, storage));
    });
  }

  void block(Val t, Val group, Val first) {
    Val count = min(k.i64(h.rows) - first, k.i64(blockRows));
    const int64_t channels = headsAtOnce * h.headDim;
    auto rowOf = [&](Val r) { return out + (t * h.rows + first + r) * row.bytes(); };
    k.loop(0, headsAtOnce, 1, [&](Val i) {
      Val number = group * headsAtOnce + i;
      head(t, number, first, count);
      k.loop(k.i64(0), count, 1, [&](Val r) {
        if (row.quantized())
          finish(r, floats + r * (channels * 4) + i * (h.headDim * 4), Storage::F32);
        else
          finish(r, rowOf(r) + number * (h.headDim * row.unitBytes()), row.storage());
      });
    });
    if (row.quantized())
      return k.loop(k.i64(0), count, 1, [&](Val r) {
        Ptr to = rowOf(r) + group * (channels / row.unit() * row.unitBytes());
        k.quantize(floats + r * (channels * 4), row, channels, to);
      });
    if (row.columns != padded(row.columns)) // it feeds a product: it must be zero
      k.ifThen(eq(group, h.heads - 1), [&] {
        k.loop(k.i64(0), count, 1, [&](Val r) {
          for (int64_t c = row.columns; c < padded(row.columns); ++c)
            (rowOf(r) + c * row.unitBytes()).store(k.constant(k.typeOf(row.storage()), 0));
        });
      });
  }

  void run() {
    k.loop(0, blockRows, 1, [&](Val i) { (ids + i * 4).store(k.convert(i, k.i32())); });
    const int64_t groups = h.heads / headsAtOnce, blocks = llvm::divideCeil(h.rows, blockRows);
    k.parts(k.tokens * (groups * blocks), Claims{k.operand(Operand::Counters), 1},
            [&](Val first, Val last) {
              k.loop(first, last, 1, [&](Val unit) {
                Val group = unit / blocks, t = group / groups;
                block(t, group % k.i64(groups), unit % k.i64(blocks) * blockRows);
              });
            });
  }
};
} // namespace

void CpuTileAttention::emit(CpuKernel &k) const { TileAttention{k, *this}.run(); }

} // namespace moe::codegen
