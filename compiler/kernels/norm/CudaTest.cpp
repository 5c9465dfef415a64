// The norm of larger steps on the simulator, of all tokens and of those whose logits are wanted.
#include "compiler/kernels/norm/Norm.h"
#include "compiler/targets/cuda/TestKernels.h"

namespace moe::codegen {

namespace {

using NormKernel = TiledKernelTest;

TEST_F(NormKernel, OddSizes) {
  for (int64_t hidden : {40, 64, 97, 1030, 5120})
    for (bool gather : {false, true}) {
      CudaNorm contract{hidden, kEps, gather};
      PtxKernel kernel(contract, gather ? "sm_80" : "sm_90a");
      kernel.expectAssembles(64);
      const int32_t tokens = hidden > 1000 ? 3 : 19;
      Floats h = normal(tokens * hidden, 3), norm = normal(hidden);
      const Ints rows{1, 0, 2, 2, 0};
      Floats chosen = gather ? reference::selectRows(h, rows, hidden) : h;
      const int64_t n = chosen.size() / hidden;
      Halves got = sameBits(n, [&](uint64_t seed, int64_t blocks) {
        PtxBench bench(seed);
        PtxArgument x = bench.made(contract, Operand::X, {tokens, int64_t(rows.size())});
        std::vector<PtxArgument> arguments{
            {Operand::H, bench.put(f32Rows(h, hidden))}, {Operand::Norm, bench.put(norm)}, x};
        if (gather)
          arguments.push_back({Operand::Rows, bench.put(rows)});
        bench.run(kernel, blocks, arguments, {tokens, int32_t(rows.size()), 0, 0});
        return bench.get<uint16_t>(x.address, n * padded(hidden));
      });
      expectNear(valuesOf(got, hidden), reference::rmsNorm(chosen, norm, kEps), kRounded,
                 kernel.name);
    }
}

} // namespace

} // namespace moe::codegen
