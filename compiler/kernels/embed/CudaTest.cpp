// The embedding on the simulator: values are those of the table, to the bit.
#include "compiler/kernels/embed/Embed.h"
#include "compiler/targets/cuda/TestKernels.h"

namespace moe::codegen {

namespace {

using EmbedKernel = SmallKernelTest;
INSTANTIATE_TEST_SUITE_P(All, EmbedKernel, kSmallCases);

TEST_P(EmbedKernel, CopiesRows) {
  for (auto [format, hidden] :
       {std::pair{kBf16, 70}, {kInt8, 256}, {kInt4Zeros, 96}, {kFp8, 128}}) {
    const int64_t vocabulary = 11;
    TestWeight table =
        testWeight(generator, format, 1, vocabulary, hidden, 1, WeightLayout::Kind::Rows);
    Ints ids;
    Floats want;
    for (int64_t t = 0; t < T; ++t) {
      ids.push_back(generator() % vocabulary);
      const float *row = &table.values[ids[t] * hidden];
      want.insert(want.end(), row, row + hidden);
    }
    Embed embed{hidden, format};
    PtxKernel kernel(embed, chip);
    kernel.expectAssembles(32);
    uint64_t h = bench.put(Floats(T * padded(hidden), kPadding));
    EXPECT_EQ(embed.bytes(Operand::H, {T, T}), T * padded(hidden) * 4);
    bench.run(kernel, blocks,
              {{Operand::Tokens, bench.put(ids)},
               {Operand::Embedding, bench.put(table.bytes)},
               {Operand::H, h}},
              step);
    EXPECT_EQ(valuesOf(bench.get<float>(h, T * padded(hidden)), hidden), want) << kernel.name;
  }
}

} // namespace

} // namespace moe::codegen
