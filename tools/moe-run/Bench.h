// What bench's two ways of working share.
#ifndef MOE_TOOLS_MOE_RUN_BENCH_H
#define MOE_TOOLS_MOE_RUN_BENCH_H

#include "runtime/session/Session.h"
#include "tools/moe-run/Output.h"
#include "tools/moe-run/WeightBytes.h"

namespace moe {

struct BenchOptions;

struct Spread {
  double median = 0, min = 0, max = 0;
};
Spread spreadOf(std::vector<double> values);
JsonObject jsonOf(const Spread &spread);
std::string textOf(const Spread &spread, double unit, int digits); // "median (min to max)"

std::vector<int32_t> randomTokens(int64_t count, int64_t vocab);

// A new sequence gets the first `before` tokens untimed, then the others in steps of `step`; the
// seconds of those. The sequence is removed.
Result<double> benchTurn(Session &session, std::span<const int32_t> tokens, int64_t before,
                         int64_t step);

// First says on standard output what runs, then answers each line of standard input, "prefill N" or
// "decode N [AFTER]", with one line of JSON. The tokens are the first of `tokens`, as many as a
// turn may have.
Status serveBench(Session &session, std::span<const int32_t> tokens, const WeightBytes &weights);

// How fast sequences decode together, for each number of them that the options have: prints it.
Status benchSequences(const Plan &plan, const BenchOptions &options);

} // namespace moe

#endif
