// Implements the arrangement of registers, by shuffles that are an instruction each.
#include "compiler/targets/cpu/MatrixTile.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;

namespace moe::codegen {

// The interleaved lower or upper halves of two vectors.
static Val zip(CpuKernel &k, Val x, Val y, bool upper) {
  SmallVector<int64_t> lanes;
  for (int64_t i = 0, n = x.lanes(); i < n / 2; ++i) {
    const int64_t lane = upper ? n / 2 + i : i;
    lanes.append({lane, n + lane});
  }
  return k.shuffle(x, y, lanes);
}

// The even or the odd lanes of two vectors.
static Val unzip(CpuKernel &k, Val x, Val y, bool odd) {
  SmallVector<int64_t> lanes;
  for (int64_t i = 0; i < x.lanes(); ++i)
    lanes.push_back(2 * i + odd);
  return k.shuffle(x, y, lanes);
}

SmallVector<Val> MatrixTile::arrange(ArrayRef<Val> sums) {
  SmallVector<Val> registers(even(tokens) * vectors);
  for (int64_t t = 0; t < tokens; t += 2)
    for (int64_t v = 0; v < vectors; ++v) {
      Val x = sums[t * vectors + v], y = sums[std::min(t + 1, tokens - 1) * vectors + v];
      registers[t * vectors + v] = zip(k, x, y, false);
      registers[(t + 1) * vectors + v] = zip(k, x, y, true);
    }
  return registers;
}

SmallVector<Val> MatrixTile::separate(ArrayRef<Val> registers) {
  SmallVector<Val> sums(tokens * vectors);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t first = t / 2 * 2 * vectors + v;
      sums[t * vectors + v] = unzip(k, registers[first], registers[first + vectors], t % 2);
    }
  return sums;
}

MatrixTile::Weights MatrixTile::interleave(Val unit, std::optional<Val> next) {
  Val other = next ? *next : k.constant(unit.type(), 0);
  return {zip(k, unit, other, false), zip(k, unit, other, true)};
}

Val MatrixTile::activations(Ptr x, Ptr y, bool one) {
  // As float64, or LLVM would load them into other registers first.
  auto load = [&](Ptr from) {
    if (!one)
      return from.load(k.f64());
    Val wide = k.val(arith::ExtUIOp::create(k, k.i64(), from.load(k.i32()).value));
    return k.bitcast(wide, k.f64());
  };
  Val pair = k.val(vector::FromElementsOp::create(k, cast<VectorType>(k.vec(2, k.f64())),
                                                  ValueRange{load(x).value, load(y).value}));
  SmallVector<int64_t> lanes;
  for (int64_t i = 0; i < k.target.lanes / 2; ++i)
    lanes.push_back(i % 2);
  return lanes.size() == 2 ? pair : k.shuffle(pair, pair, lanes);
}

void MatrixTile::add(SmallVectorImpl<Val> &registers, ArrayRef<Ptr> xs, bool one,
                     function_ref<SmallVector<Weights, 2>(int64_t)> load) {
  SmallVector<Val> pairs;
  for (int64_t t = 0; t < tokens; t += 2)
    pairs.push_back(activations(xs[t], xs[std::min(t + 1, tokens - 1)], one));
  for (int64_t v = 0; v < vectors;) {
    const auto weights = load(v);
    const int64_t end = v + weights.size();
    // What others are made of comes last.
    for (int64_t of = end - 1; of >= v; --of) {
      auto [first, second] = weights[of - v];
      for (auto [i, x] : llvm::enumerate(pairs)) {
        Val &lower = registers[2 * i * vectors + of],
            &upper = registers[(2 * i + 1) * vectors + of];
        lower = k.matrixDot(lower, first, x);
        upper = k.matrixDot(upper, second, x);
      }
    }
    if (end == vectors)
      break;
    SmallVector<Val *> sums;
    for (; v < end; ++v)
      for (size_t i = v; i < registers.size(); i += vectors)
        sums.push_back(&registers[i]);
    k.loadAfter(sums);
  }
}

} // namespace moe::codegen
