// What steps of the device cost, learned as they run.
#ifndef MOE_RUNTIME_SERVER_STEPCOSTS_H
#define MOE_RUNTIME_SERVER_STEPCOSTS_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moe::server {

// Seconds of a step by its tokens: a moving average for each class of sizes, four of them between
// a power of two and the next. It rises with the tokens, and never faster than they do beyond the
// largest size that was seen, so that an unknown cost is taken for more than it is.
class StepCosts {
public:
  // A step of `tokens`, at least 1, has run. One that took much longer than those before it counts
  // as twice as long: something else may have had the processor.
  void observe(int64_t tokens, double seconds);

  // What a step would take; 0 while none has been seen.
  double of(int64_t tokens) const;

  // The most tokens up to `most` with which a step takes at most `seconds`; 0 if none is.
  int64_t within(double seconds, int64_t most) const;

private:
  struct Class {
    double tokens = 0, seconds = 0; // means
    int32_t count = 0;              // of steps, up to kMemory
  };
  struct Point {
    double tokens, seconds;
  };
  static constexpr int32_t kMemory = 16;
  static size_t classOf(int64_t tokens);

  std::vector<Class> classes;
  std::vector<Point> points; // of the classes that were seen, rising in both
};

} // namespace moe::server

#endif
