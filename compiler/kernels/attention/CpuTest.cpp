// The attention half of a layer: norm, qkv and attention, at odd sizes, in steps of any size, on
// every processor that this machine has or emulates, against MoeReference. The bits of a result
// depend neither on the number of workers nor on the other tokens of the step.
#include "compiler/kernels/attention/TestCpuAttention.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

class AttentionKernels : public AttentionLayer {};

TEST_P(AttentionKernels, StepsOfAnySize) {
  // Heads of 128 channels, and such whose channels share a unit of the output's rows with others'.
  std::vector<Shape> shapes{{64, 4, 2, 16, 8, true, true, false},
                            {64, 2, 1, 128, 100, true, false, false}};
  if (!kind.group)
    shapes.insert(shapes.end(), {{96, 10, 2, 64, 0, false, false, true},
                                 {64, 3, 3, 32, 0, true, true, true},
                                 {64, 30, 1, 20, 64, true, true, false}});
  std::vector<Storage> storages{storage}; // of keys and values
  if (kind.element == Storage::BF16)
    storages.push_back(Storage::I8);
  for (Storage kept : storages)
    for (const Shape &of : shapes) {
      make(of, kept);
      begin({130, 40, 9});
      Floats whole = go({all}, 1, Apart);
      expectNear(whole, expected(all), 2);
      EXPECT_EQ(go({all}, 3, Apart), whole);
      EXPECT_EQ(go({all}, 2, Prepared), whole);
      for (int workers : {1, 2, 5})
        EXPECT_EQ(go({all}, workers, Fused), whole);

      // Uneven pieces of mixed sequences; then one token at a time.
      std::vector<Tokens> uneven;
      std::vector<int32_t> next(3, 0);
      while (next != lengths) {
        Tokens tokens;
        for (int32_t s : {1, 0, 2})
          for (int i = generator() % 40; i > 0 && next[s] < lengths[s]; --i)
            tokens.push_back({s, next[s]++});
        if (!tokens.empty())
          uneven.push_back(tokens);
      }
      EXPECT_EQ(go(uneven, 2, Apart), whole);
      EXPECT_EQ(go(oneByOne(), 1, Fused), whole);
    }
}

INSTANTIATE_TEST_SUITE_P(Cpu, AttentionKernels, someKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, AttentionKernels, emulatedKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(CpuCodes, AttentionKernels,
                         testing::Combine(testing::Values("x86-64-v4", "aarch64"),
                                          testing::Values(kInt4Kind)),
                         nameOfCase);

} // namespace
