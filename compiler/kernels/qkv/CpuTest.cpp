// The q, k and v projections where workers claim their weights, without attention and with it: what
// comes of them has the same bits on any number of workers. (Their results are tested with
// attention.)
#include "compiler/kernels/attention/TestCpuAttention.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

class QkvClaims : public AttentionLayer {};

TEST_P(QkvClaims, KeepBitsOnAnyWorkers) {
  // Of a panel each, as many heads as make the least weight that is claimed.
  constexpr int64_t hidden = 1024;
  const int64_t bytes = panelBytes(kind.of(hidden), hidden);
  const int64_t kvHeads = 2, group = llvm::divideCeil(kClaimedBytes / bytes - 4, kvHeads) + 1;
  make({hidden, group * kvHeads, kvHeads, 64, 0, true, true, false}, storage);
  begin({40, 3});
  ASSERT_TRUE(qkvOf.claims() && bothOf.claims() && preparedOf.claims());
  EXPECT_LT(qkvOf.weightBytes(), kClaimedBytes + 4 * bytes);
  const Floats want = go({all}, 1, Apart);
  const Bytes kept = pages;
  expectNear(want, expected(all), 2);
  const Tokens one{{0, 39}}, three{{1, 2}, {0, 38}, {0, 39}};
  for (int workers : {1, 2, 3, 7, 64})
    for (Path path : {Apart, Prepared, Fused}) {
      SCOPED_TRACE(testing::Message() << workers << " workers, path " << path);
      EXPECT_EQ(go({all}, workers, path), want);
      EXPECT_EQ(pages, kept);
      for (const Tokens &tokens : {one, three}) {
        EXPECT_EQ(step(tokens, workers, path), rowsOfTokens(want, tokens));
        EXPECT_EQ(pages, kept);
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Cpu, QkvClaims, someKinds({kInt4Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, QkvClaims, allClaimedKinds(), nameOfCase);

} // namespace
