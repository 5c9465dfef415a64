// One vector of a text out of the hidden states of its tokens.
#ifndef MOE_RUNTIME_SESSION_POOLING_H
#define MOE_RUNTIME_SESSION_POOLING_H

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace moe {

enum class PoolingKind {
  Mean, // of all tokens
  Last  // the last token, which has seen all others
};

// "mean" or "last".
std::optional<PoolingKind> poolingNamed(std::string_view name);

// Takes the states in the order of the tokens. Sums are float64, in that order, so that the same
// states give the same bits everywhere. Results have a Euclidean length of 1; they are all zero
// where the states are, and no numbers where a state has a channel that is none.
class Pooling {
public:
  explicit Pooling(int64_t channels) : sums(channels), last(channels) {}

  void add(std::span<const float> state); // [channels]
  std::vector<float> result(PoolingKind kind) const;
  int64_t tokens() const { return count; }

private:
  std::vector<double> sums;
  std::vector<float> last;
  int64_t count = 0;
};

} // namespace moe

#endif
