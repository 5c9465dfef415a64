// Logits of a plan in the many ways that a session can compute them.
#ifndef MOE_TEST_GOLDEN_RUNNING_H
#define MOE_TEST_GOLDEN_RUNNING_H

#include "runtime/session/Session.h"

namespace moe::test {

using Ids = std::vector<int32_t>;

// The logits of every token of a text: [tokens, vocab].
struct Logits {
  size_t vocab = 0;
  std::vector<float> values;

  size_t rows() const { return values.size() / vocab; }
  std::span<const float> operator[](size_t row) const {
    return std::span(values).subspan(row * vocab, vocab);
  }
};

int32_t argmax(std::span<const float> logits);
// Infinite where one of them is no number.
double largestDifference(std::span<const float> a, std::span<const float> b);
// KL divergence of the softmax of `q` from that of `p`.
double divergence(std::span<const float> p, std::span<const float> q);

// `how`: how the second came about.
void expectSameBits(const Logits &expected, const Logits &found, const std::string &how);

// A session that runs the image of `target`, also where the machine could run a better one; those
// of GPUs on the simulator, at most one such session at a time.
Session openSession(const Plan &plan, const std::string &target, SessionOptions options);

// How many tokens text number `text` adds in step number `step`: what is left, if that is less.
using Schedule = int64_t (*)(int64_t step, size_t text);
int64_t whole(int64_t step, size_t text);
int64_t oneByOne(int64_t step, size_t text);
int64_t uneven(int64_t step, size_t text); // pieces that end anywhere in a chunk
int64_t mixed(int64_t step, size_t text);  // texts start one after the other, long and short pieces

// Runs the texts in shared steps, each in a sequence of its own, and frees the sequences.
std::vector<Logits> runTexts(Session &session, std::span<const Ids> texts, Schedule schedule);

// Expects the same bits from all these ways: each text alone, whole, token by token and in uneven
// pieces; all of them in shared steps; on 1, 2 and 3 threads; in small steps; the same text many
// times at once. Returns the logits.
std::vector<Logits> expectSameBitsInAllWays(const Plan &plan, const std::string &target,
                                            std::span<const Ids> texts);

} // namespace moe::test

#endif
