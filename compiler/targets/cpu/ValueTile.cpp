// Implements the tile of int8 values: the digits of the weights take turns in one accumulator.
#include "compiler/targets/cpu/ValueTile.h"
#include "compiler/targets/cpu/MatrixTile.h"

using namespace mlir;

namespace moe::codegen {

static bool takesWords(CpuKernel &k) { return k.target.codeDot == CodeDot::BytePairs; }

void quantizeWeights(CpuKernel &k, ArrayRef<Val> weights, Ptr to) {
  int64_t lanes = k.target.lanes;
  Type ints = k.vec(lanes, k.i32());
  // As in CpuKernel::quantizePiece.
  Val bits = k.constant(ints, 0);
  for (Val w : weights)
    bits = max(bits, k.bitcast(w, ints) & 0x7fffffff);
  Val most = k.bitcast(k.maximum(bits), k.f32());
  Val inverse = select(gt(most, 1e-30), k.f32(PageWeights::largest) / most, k.f32(0));
  Val total = k.constant(ints, 0);
  for (auto [i, w] : llvm::enumerate(weights)) {
    Val code = k.convert(k.round(w * inverse), k.i32());
    total = total + code;
    Ptr at = to + PageWeights::codesAt;
    if (takesWords(k)) {
      SmallVector<int64_t> order;
      for (int64_t lane = 0; lane < lanes; lane += 4)
        order.append({lane, lane + 2, lane + 1, lane + 3});
      (at + i * lanes * 2).store(k.convert(k.shuffle(code, code, order), k.getI16Type()));
      continue;
    }
    (at + i * lanes).store(k.convert(shiftRightSigned(code + 128, 8), k.getI8Type()));
    (at + (kPageTokens + i * lanes)).store(k.convert(code, k.getI8Type()));
  }
  (to + PageWeights::scaleAt).store(most * (1.0 / PageWeights::largest));
  (to + PageWeights::sumAt).store(k.sum(total));
}

namespace {
struct ValueTile {
  CpuKernel &k;
  const TileOperands &o;
  int64_t count = o.rows.size(), lanes = k.target.lanes;
  int64_t vectors = (count == 1 ? kPanel : k.target.tileRows) / lanes;
  Type ints = k.vec(lanes, k.i32()), floats = k.vec(lanes, k.f32());

  // Adds the products of the four positions of unit u with what lies at `at` of a row's codes.
  void unit(Val u, int64_t firstChannel, int64_t at, SmallVectorImpl<Val> &sums) {
    if (firstChannel == 0 && at == 0)
      k.fetch(o, u);
    SmallVector<Val> codes;
    for (int64_t v = 0; v < vectors; ++v)
      codes.push_back((o.panel + u * (kPanel * 4) + (firstChannel + v * lanes) * 4)
                          .load(k.vec(lanes * 4, k.getI8Type())));
    auto quad = [&](Ptr from, Type type) {
      return k.bitcast(k.broadcast(from.load(k.i32()), lanes), type);
    };
    for (int64_t t = 0; t < count; ++t) {
      Ptr row = o.rows[t] + (PageWeights::codesAt + at);
      for (int64_t v = 0; v < vectors; ++v) {
        Val &sum = sums[t * vectors + v];
        if (!takesWords(k)) {
          bool isSigned = k.target.codeDot == CodeDot::SignedBytes;
          sum = k.codeDot(sum, isSigned ? codes[v] ^ -128 : codes[v],
                          quad(row + u * 4, codes[v].type()));
          continue;
        }
        // 255 * 32639 twice fits 25 bits, and 32 of them the accumulator.
        Type type = k.vec(lanes * 2, k.getI16Type());
        Val word = k.bitcast(codes[v], type);
        sum = k.wordDot(sum, word & 0xff, quad(row + u * 8, type));
        sum = k.wordDot(sum, shiftRight(word, 8), quad(row + u * 8 + 4, type));
      }
    }
  }

  // The same of units u and u + 1, as matrices.
  void twoUnits(MatrixTile &tile, Val u, int64_t firstChannel, int64_t at,
                SmallVectorImpl<Val> &registers) {
    if (firstChannel == 0 && at == 0)
      for (int64_t i : {0, 1})
        k.fetch(o, u + i);
    SmallVector<Ptr> xs;
    for (Ptr row : o.rows)
      xs.push_back(row + (PageWeights::codesAt + at) + u * 4);
    tile.add(registers, xs, /*one=*/false, [&](int64_t v) -> SmallVector<MatrixTile::Weights, 2> {
      Ptr codes = o.panel + u * (kPanel * 4) + (firstChannel + v * lanes) * 4;
      return {tile.interleave(codes.load(ints), (codes + kPanel * 4).load(ints))};
    });
  }

  // Channels firstChannel and what follows in `vectors` registers.
  void block(int64_t firstChannel) {
    bool bytes = k.target.codeDot != CodeDot::BytePairs;
    std::optional<MatrixTile> tile;
    if (MatrixTile::takes(k.target, count))
      tile.emplace(k, count, vectors);
    SmallVector<Val> sums(count * vectors, k.constant(ints, 0));
    for (int64_t digit = bytes ? 0 : 1; digit < 2; ++digit) {
      for (int64_t t = 0; digit == 1 && t < count; ++t) {
        // Less 128, the zero of the values' codes; NEON takes it from the codes.
        Val total = (o.rows[t] + PageWeights::sumAt).load(k.i32());
        bool inCodes = k.target.codeDot == CodeDot::SignedBytes;
        Val start = k.broadcast(inCodes ? total * 0 : total * -128, lanes);
        for (int64_t v = 0; v < vectors; ++v) {
          Val &sum = sums[t * vectors + v];
          sum = bytes ? (sum << 8) + start : start;
        }
      }
      int64_t at = bytes ? digit * kPageTokens : 0;
      auto units = [&](int64_t step, ArrayRef<Val> sums, auto add) {
        return k.loop(k.i64(0), k.i64(kPageTokens / 4), step, sums,
                      [&](Val u, ArrayRef<Val> before) {
                        SmallVector<Val> next(before);
                        add(u, next);
                        return next;
                      });
      };
      if (tile)
        sums = tile->separate(units(2, tile->arrange(sums), [&](Val u, auto &next) {
          twoUnits(*tile, u, firstChannel, at, next);
        }));
      else
        sums = units(1, sums, [&](Val u, auto &next) { unit(u, firstChannel, at, next); });
    }
    for (int64_t t = 0; t < count; ++t) {
      Val scale = k.broadcast((o.rows[t] + PageWeights::scaleAt).load(k.f32()), lanes);
      for (int64_t v = 0; v < vectors; ++v) {
        Ptr at = o.outs[t] + (firstChannel + v * lanes) * 4;
        at.store(fma(k.convert(sums[t * vectors + v], k.f32()), scale, at.load(floats)));
      }
    }
  }
};
} // namespace

void emitValueTile(CpuKernel &k, const TileOperands &operands) {
  ValueTile tile{k, operands};
  for (int64_t channel = 0; channel < kPanel; channel += tile.vectors * tile.lanes)
    tile.block(channel);
}

} // namespace moe::codegen
