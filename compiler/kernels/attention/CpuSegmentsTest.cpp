// Attention far into a context, where what a token attends to is cut into segments that workers
// share: against MoeReference, and the bits of a result in any step, on any number of workers and
// by the kernels of small and of larger steps, around the borders of segments and of their lengths.
#include "compiler/kernels/attention/AttentionTiles.h"
#include "compiler/kernels/attention/TestCpuAttention.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

// Tokens of a segment, and of a context in which segments become longer.
constexpr int32_t kSegment = kShortestSegment * kPageTokens, kLonger = 32 * kSegment;

class AttentionSegments : public AttentionLayer {
protected:
  std::vector<Storage> storages() const { // of keys and values
    if (kind.element == Storage::BF16)
      return {Storage::BF16, Storage::I8};
    return {storage};
  }
  int64_t below(int64_t n) { return int64_t(generator() % n); }
  // So many tokens of a sequence.
  static Tokens consecutive(int32_t sequence, int32_t first, int32_t count) {
    Tokens tokens;
    for (int32_t i = 0; i < count; ++i)
      tokens.push_back({sequence, first + i});
    return tokens;
  }
  // Small steps of these tokens give the bits that they have in a large one on one worker, whoever
  // does what. All are in the cache, and so are those after them.
  void expectSameBits(const std::vector<Tokens> &steps) {
    for (const Tokens &tokens : steps) {
      SCOPED_TRACE(testing::Message()
                   << tokens.size() << " tokens from position " << tokens.front().position
                   << " of sequence " << tokens.front().sequence);
      Floats want;
      for (Token token : tokens) {
        Floats row = step({token}, 1, Prepared);
        want.insert(want.end(), row.begin(), row.end());
      }
      EXPECT_EQ(step(tokens, 1, Prepared), want);
      EXPECT_EQ(step(tokens, 4, Prepared), want);
      for (int workers : {1, 2, 3, 5, 16})
        EXPECT_EQ(step(tokens, workers, Fused), want) << workers << " workers";
    }
  }

  void nearBorders();
  void farIntoAContext(std::vector<int32_t> borders);
  void inAnySteps();
};

// Of the first segments, and of chunks.
void AttentionSegments::nearBorders() {
  begin({1100, 1040, 530, 20});
  const Floats whole = go({all}, 1, Prepared), want = expected(all);
  // Early tokens have larger results, so they and others are compared apart.
  for (auto [first, count] : {std::pair(0, 64), {64, 448}, {512, 512}, {1024, 76}}) {
    Tokens tokens = consecutive(0, first, count);
    expectNear(rowsOfTokens(whole, tokens), rowsOfTokens(want, tokens), 2);
  }
  EXPECT_EQ(go({all}, 3, Prepared), whole);
  EXPECT_EQ(go({all}, 2, Fused), whole);
  std::vector<Tokens> steps;
  const int32_t chunk = int32_t(shape.chunk);
  for (int32_t border : {kSegment, 2 * kSegment, chunk})
    for (int32_t count = 1; count <= 4; ++count)
      for (int32_t first : {border - count, border - count / 2, border})
        if (first >= 0)
          steps.push_back(consecutive(0, first, count));
  // Deep and shallow ones together.
  steps.push_back({{0, 1099}, {3, 0}});
  steps.push_back({{3, 19}, {0, 1023}, {2, 512}});
  steps.push_back({{1, 1024}, {1, 1025}, {3, 4}, {0, 511}});
  steps.push_back({{0, 1024}, {1, 1024}, {2, 511}, {2, 512}});
  expectSameBits(steps);
}

// Around these positions of a long sequence, with others in the step.
void AttentionSegments::farIntoAContext(std::vector<int32_t> borders) {
  begin({borders.back() + 10, 600, 3});
  for (size_t at = 0; at < all.size(); at += 1000)
    append({all.begin() + int64_t(at), all.begin() + int64_t(std::min(at + 1000, all.size()))}, 2);
  std::vector<Tokens> steps;
  Tokens some;
  for (int32_t border : borders) {
    for (int32_t count = 1; count <= 4; ++count)
      steps.push_back(consecutive(0, border - count / 2, count));
    steps.push_back(consecutive(0, border - 1, 1));
    steps.push_back({{2, 1}, {0, border - 1}, {0, border}, {1, 512}});
    some.insert(some.end(), {{0, border - 1}, {0, border}});
  }
  expectNear(step(some, 5, Fused), expected(some), 2);
  expectSameBits(steps);
}

// Random sequences in random steps, by random kernels on random numbers of workers, give the bits
// of one token at a time on one worker.
void AttentionSegments::inAnySteps() {
  std::vector<int32_t> some(1 + below(4));
  for (int32_t &length : some)
    length = int32_t(1 + below(below(2) ? 1400 : 100));
  begin(some);
  SCOPED_TRACE(testing::Message() << shape.heads << " heads, " << shape.kvHeads
                                  << " of keys, chunk " << shape.chunk << ", lengths "
                                  << testing::PrintToString(some));
  const Floats want = go(oneByOne(), 1, Fused);
  clear();
  std::vector<int32_t> next(some.size());
  while (next != some) {
    Tokens tokens;
    const int64_t most = below(3) ? 1 + below(4) : 1 + below(400);
    while (int64_t(tokens.size()) < most && next != some) {
      const auto s = int32_t(below(int64_t(some.size())));
      for (int64_t i = 1 + below(most); i > 0 && next[s] < some[s]; --i)
        tokens.push_back({s, next[s]++});
    }
    const Path path = Path(below(3));
    const int workers = int(1 + below(17));
    ASSERT_EQ(step(tokens, workers, path), rowsOfTokens(want, tokens))
        << tokens.size() << " tokens on " << workers << " workers by path " << path;
  }
}

TEST_P(AttentionSegments, KeepBits) {
  const Shape unbounded{64, 4, 2, 16, 0, true, true, false},
      chunks{64, 3, 3, 16, 700, true, false, true};
  for (auto [of, kept] : {std::pair(unbounded, storage), {chunks, storages().back()}}) {
    make(of, kept);
    nearBorders();
    inAnySteps();
    if (!of.chunk)
      farIntoAContext({kLonger});
  }
}

// Chunks so long that their segments grow, and that begin in the midst of a segment.
class LongAttentionSegments : public AttentionSegments {};

TEST_P(LongAttentionSegments, KeepBits) {
  const int32_t chunk = kLonger + 100;
  make({64, 6, 1, 16, chunk, false, false, false}, storages().back());
  // Of 16384 tokens; of a chunk; of 256 and 257 pages.
  farIntoAContext({kLonger, chunk, 2 * kLonger, 2 * kLonger + 64, chunk + kLonger});
}

// As KeepBits, of many layers.
class RandomAttentionSegments : public AttentionSegments {};

TEST_P(RandomAttentionSegments, KeepBits) {
  for (Storage kept : storages())
    for (int layer = 0; layer < 6; ++layer) {
      const int64_t group = 1 + below(6), kvHeads = 1 + below(3);
      make({64, group * kvHeads, kvHeads, 16 * (1 + below(2)), layer ? 1 + below(1000) : 0,
            below(2) == 0, below(2) == 0, below(2) == 0},
           kept);
      for (int round = 0; round < 4; ++round)
        inAnySteps();
    }
}

const std::vector<Kind> kCaches{kF32Kind, kBf16Kind};
INSTANTIATE_TEST_SUITE_P(Cpu, AttentionSegments, someKinds(kCaches), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, AttentionSegments, aarch64Kinds(kCaches), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, LongAttentionSegments, someKinds(kCaches), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, RandomAttentionSegments, someKinds(kCaches), nameOfCase);

} // namespace
