// How long a value takes from one processor to another: on rented machines it tells where the host
// has placed them.
#ifndef MOE_TOOLS_BENCH_PROBE_PINGPONG_H
#define MOE_TOOLS_BENCH_PROBE_PINGPONG_H

#include <optional>

namespace moe {

// Nanoseconds one way between the first two processors that this process may use; the median of
// some batches of round trips. Nothing where there is one processor or no second thread.
std::optional<double> pingPongNanoseconds();

} // namespace moe

#endif
