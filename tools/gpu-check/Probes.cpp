// The probes are kernels of the same builder, as simple as can be.
#include "tools/gpu-check/BundleWriter.h"
#include "tools/gpu-check/Limits.h"

using namespace llvm;
using namespace moe::codegen;

namespace moe::gpucheck {

using codegen::Operand;

namespace {

// Copies x to h, or reads x alone: bytes = tokens * 64 KiB. Each thread moves 16 bytes at a time,
// four in flight.
struct CopyProbe {
  bool writes;

  std::string name() const { return writes ? "copy" : "read"; }
  Operands operands() const { return {Operand::X, Operand::H}; }
  void emit(CudaKernel &k) const;
};

// A warp's products in registers, eight chains of them. Nothing is left in h.
struct ProductProbe {
  static constexpr int64_t chains = 8, rounds = 512;

  std::string name() const { return "products"; }
  Operands operands() const { return {Operand::H}; }
  void emit(CudaKernel &k) const;
};

} // namespace

void CopyProbe::emit(CudaKernel &k) const {
  k.threads = 512;
  k.blocksPerSm = 4;
  Ptr from = k.operand(Operand::X), to = k.operand(Operand::H);
  mlir::Type type = k.vec(4, k.i32());
  k.stride(k.block(), k.tokens(), k.blocks(), [&](Val piece) {
    Val base = k.convert(piece, k.i64()) * kProbePiece + k.convert(k.thread(), k.i64()) * 16;
    SmallVector<Val> values;
    int64_t step = k.threads * 16;
    for (int64_t at = 0; at < kProbePiece; at += step)
      values.push_back(k.load(from + base + at, type));
    if (writes) {
      for (auto [i, value] : enumerate(values))
        k.store(to + base + int64_t(i) * step, value);
      return;
    }
    // What was read must matter: it is written if all of it is ones.
    Val all = k.at(values[0], 0);
    for (Val value : values)
      for (int64_t lane = 0; lane < 4; ++lane)
        all = all & k.at(value, lane);
    k.ifThen(eq(all, -1), [&] { k.store(to, all); });
  });
}

void ProductProbe::emit(CudaKernel &k) const {
  k.threads = 256;
  k.blocksPerSm = 2;
  Val seed = k.thread() + 0x3f803f80; // numbers near one
  SmallVector<Val> a{seed, seed + 1, seed + 2, seed + 3}, b{seed + 4, seed + 5};
  SmallVector<Val> init(chains * 4, k.f32(0));
  auto sums = k.loop(k.i32(0), k.i32(rounds), 1, init, [&](Val, ArrayRef<Val> carried) {
    SmallVector<Val> next;
    for (int64_t c = 0; c < chains; ++c) {
      auto d = k.mma(Half::BF16, a, b,
                     {carried[c * 4], carried[c * 4 + 1], carried[c * 4 + 2], carried[c * 4 + 3]});
      next.append(d.begin(), d.end());
    }
    return next;
  });
  Val total = sums[0];
  for (Val s : ArrayRef(sums).drop_front())
    total = total + s;
  k.ifThen(eq(total, k.f32(1.5)), [&] { k.store(k.operand(Operand::H), total); });
}

llvm::Error addProbes(BundleWriter &writer) {
  fb::ProbesT probes;
  for (bool writes : {false, true}) {
    auto kernel = writer.kernel(ChosenKernel<CudaKernel>(CopyProbe{writes}));
    if (!kernel)
      return kernel.takeError();
    (writes ? probes.copy : probes.read) = *kernel;
  }
  auto products = writer.kernel(ChosenKernel<CudaKernel>(ProductProbe{}));
  if (!products)
    return products.takeError();
  probes.products = *products;
  probes.flops_per_warp = double(ProductProbe::chains * ProductProbe::rounds * 2 * 16 * 8 * 16);
  writer.add(probes);
  return llvm::Error::success();
}

} // namespace moe::gpucheck
