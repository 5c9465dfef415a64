// The kernels that begin a step, on every processor that this machine has or emulates, against
// MoeReference.
#include "compiler/kernels/embed/Embed.h"
#include "compiler/kernels/rope_table/RopeTable.h"
#include "compiler/targets/cpu/TestCpuKernel.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

class EmbedKernel : public Kernels {};
class RopeTableKernel : public Kernels {};

TEST_P(EmbedKernel, GivesRowsOfTheTable) {
  for (int64_t hidden : {40, 64, 96, 130}) {
    TestWeight table = matrix({11, hidden}, WeightLayout::Kind::Rows, kind.of(hidden), 1);
    Ints tokens{3, 0, 10, 3, 7};
    Compiled kernel = compile(Embed{hidden, kind.of(hidden)});
    for (int workers : {1, 3}) {
      Bytes h(5 * padded(hidden) * 4, std::byte(0xff));
      run(kernel, {{Operand::Tokens, tokens}, {Operand::Embedding, table.bytes}, {Operand::H, h}},
          5, 0, 0, workers);
      EXPECT_EQ(valuesOf(h, 5, hidden, Storage::F32),
                reference::embed(tokens, table.values, hidden));
      for (int64_t c = hidden; c < padded(hidden); ++c)
        EXPECT_EQ(get(h, c, Storage::F32), 0);
    }
  }
}

TEST_P(EmbedKernel, TakesRowsOfPictures) {
  for (int64_t hidden : {40, 64, 130}) {
    TestWeight table = matrix({11, hidden}, WeightLayout::Kind::Rows, kind.of(hidden), 1);
    Ints tokens{3, 0, 10, 3, 7}, imageRows{-1, 2, 0, -1, 2};
    Floats images = random(3 * hidden);
    Compiled kernel = compile(Embed{hidden, kind.of(hidden), /*images=*/true});
    Bytes h(5 * padded(hidden) * 4, std::byte(0xff));
    run(kernel,
        {{Operand::Tokens, tokens},
         {Operand::Embedding, table.bytes},
         {Operand::H, h},
         {Operand::ImageRows, imageRows},
         {Operand::Images, images}},
        5, 0, 0, 2);
    EXPECT_EQ(valuesOf(h, 5, hidden, Storage::F32),
              reference::embedWithImages(tokens, table.values, images, imageRows, hidden));
    for (int64_t c = hidden; c < padded(hidden); ++c)
      EXPECT_EQ(get(h, padded(hidden) + c, Storage::F32), 0) << "padding";
  }
}

TEST_P(RopeTableKernel, GivesCosinesAndSines) {
  for (int64_t headDim : {16, 64, 128}) {
    Floats frequencies = reference::ropeFrequencies(500000, headDim);
    Ints positions{0, 1, 8191, 8192, 131072, 1048575, 10485759};
    Compiled kernel = compile(RopeTable{SmallVector<float>(ArrayRef(frequencies))});
    Bytes table(7 * padded(headDim) * 4 + 256);
    run(kernel, {{Operand::Positions, positions}, {Operand::RopeTable, table}}, 7, 0, 0, 2);
    Floats want = reference::ropeTable(positions, frequencies);
    Floats got = valuesOf(table, 7, headDim, Storage::F32);
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i], want[i], 2e-7) << "element " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, EmbedKernel, allKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Cpu, RopeTableKernel, onAllTargets({kF32Kind}), nameOfCase);

} // namespace
