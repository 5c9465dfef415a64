// LayerNorm, a share of the rows for each worker.
#include "compiler/kernels/layer_norm/Cpu.h"
#include "compiler/kernels/layer_norm/LayerNorm.h"

namespace moe::codegen {

// The sum of value(vector) over n float32 values at x; the last ones one by one.
static Val sumOver(CpuKernel &k, Ptr x, int64_t n, llvm::function_ref<Val(Val)> value) {
  const int64_t lanes = k.target.lanes, whole = n / lanes * lanes;
  mlir::Type floats = k.vec(lanes, k.f32());
  Val total = k.sum(k.loop(
      k.i64(0), k.i64(whole), lanes, {k.constant(floats, 0)}, [&](Val c, llvm::ArrayRef<Val> sum) {
        return llvm::SmallVector<Val>{sum[0] + value((x + c * 4).load(floats))};
      })[0]);
  for (int64_t c = whole; c < n; ++c)
    total = total + value((x + c * 4).load(k.f32()));
  return total;
}

void layerNorm(CpuKernel &k, Ptr x, const LayerNormWeights &weights,
               llvm::function_ref<void(Val, Val)> use) {
  const int64_t n = weights.channels;
  Val mean = sumOver(k, x, n, [](Val v) { return v; }) * (1.0 / double(n));
  Val squares = sumOver(k, x, n, [&](Val v) { return (v - mean) * (v - mean); });
  Val scale = k.inverseRms(squares, n, weights.eps);
  k.channels(n, [&](Val c, int64_t lanes) {
    mlir::Type type = k.vec(lanes, k.f32());
    Val y = ((x + c * 4).load(type) - mean) * scale;
    use(c, fma(y, (weights.norm + c * 4).load(type), (weights.bias + c * 4).load(type)));
  });
}

void layerNorm(CpuKernel &k, Ptr x, const LayerNormWeights &weights, const ActivationRow &row,
               Ptr floats, Ptr to) {
  if (row.quantized()) {
    layerNorm(k, x, weights, [&](Val c, Val y) { (floats + c * 4).store(y); });
    return k.quantize(floats, row, row.columns, to);
  }
  const int64_t bytes = bytesOf(row.storage());
  layerNorm(k, x, weights,
            [&](Val c, Val y) { (to + c * bytes).store(k.toStorage(y, row.storage())); });
  for (int64_t c = row.columns; c < padded(row.columns); ++c)
    (to + c * bytes).store(k.constant(k.typeOf(row.storage()), 0));
}

void CpuLayerNorm::emit(CpuKernel &k) const {
  const LayerNormWeights weights{k.operand(Operand::Norm), k.operand(Operand::NormBias), hidden,
                                 eps};
  const ActivationRow row{format, hidden};
  Ptr h = k.operand(Operand::H), x = k.operand(Operand::X);
  Ptr floats = k.scratch(padded(hidden) * 4);
  auto [first, last] = k.share(k.tokens * tileRows);
  k.loop(first, last, 1, [&](Val r) {
    layerNorm(k, h + r * (padded(hidden) * 4), weights, row, floats, x + r * row.bytes());
  });
}

} // namespace moe::codegen
