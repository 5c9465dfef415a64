// moe-run bench PLAN: speed on random tokens, beside what the machine's memory can do at that
// moment.
#include "tools/moe-run/Bench.h"

#include "runtime/device/cpu/Processors.h"
#include "tools/moe-run/Commands.h"
#include "tools/moe-run/Output.h"
#include "tools/moe-run/ReadBandwidth.h"
#include "tools/moe-run/WeightBytes.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace moe {

Spread spreadOf(std::vector<double> values) {
  if (values.empty())
    return {};
  std::sort(values.begin(), values.end());
  size_t n = values.size();
  return {(values[(n - 1) / 2] + values[n / 2]) / 2, values.front(), values.back()};
}

JsonObject jsonOf(const Spread &spread) {
  JsonObject json;
  json.add("median", spread.median);
  json.add("min", spread.min);
  json.add("max", spread.max);
  return json;
}

std::string textOf(const Spread &spread, double unit, int digits) {
  return fixed(spread.median / unit, digits) + " (" + fixed(spread.min / unit, digits) + " to " +
         fixed(spread.max / unit, digits) + ")";
}

std::vector<int32_t> randomTokens(int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens(count);
  uint64_t state = 1;
  for (int32_t &token : tokens) {
    state = state * 6364136223846793005 + 1442695040888963407;
    token = int32_t((state >> 33) % uint64_t(vocab));
  }
  return tokens;
}

namespace {

Result<double> tokensPerSecond(Session &session, std::span<const int32_t> tokens, int64_t before,
                               int64_t step) {
  MOE_ASSIGN(seconds, benchTurn(session, tokens, before, step));
  return double(int64_t(tokens.size()) - before) / seconds;
}

} // namespace

Result<double> benchTurn(Session &session, std::span<const int32_t> tokens, int64_t before,
                         int64_t step) {
  MOE_ASSIGN(sequence, session.addSequence());
  if (before)
    MOE_TRY(session.append(sequence, tokens.first(before)));
  // A device that chooses tokens does so, as when it generates; copies of logits would slow it.
  MOE_ASSIGN(greedy, Sampler::create({}, session.vocab()));
  auto start = std::chrono::steady_clock::now();
  for (size_t at = size_t(before); at < tokens.size(); at += size_t(step)) {
    const auto part = tokens.subspan(at, std::min<size_t>(step, tokens.size() - at));
    if (session.samplesOnDevice())
      MOE_TRY(session.sample(sequence, part, greedy));
    else
      MOE_TRY(session.append(sequence, part));
  }
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  session.removeSequence(sequence);
  return seconds;
}

Result<int> runBench(const BenchOptions &options) {
  MOE_ASSIGN(opened, openPlan(options.place));
  if (!options.sequences.empty()) {
    MOE_TRY(benchSequences(opened->plan, options));
    return 0;
  }
  SessionOptions sessionWith = sessionOptions(options.place);
  const int64_t longest = std::max(options.prompt, options.depth + options.generate);
  if (sessionWith.context == 0)
    sessionWith.context = longest;
  MOE_ASSIGN(session, createSession(opened->plan, sessionWith));
  catchInterrupts();
  session.setCancel(&interrupted);
  const std::vector<int32_t> random =
      randomTokens(options.serve ? session.context() : longest, session.vocab());
  const std::span<const int32_t> tokens = random;
  const bool runtimeAlone = session.device() == "null"; // no kernel reads weights
  const WeightBytes weights =
      runtimeAlone ? WeightBytes{} : weightBytes(opened->plan, session.planDevice());
  if (options.serve) {
    MOE_TRY(serveBench(session, tokens, weights));
    return 0;
  }
  // Of the system's memory: no measure for a device with its own.
  std::unique_ptr<ReadBandwidth> probe;
  if (session.inSystemMemory())
    probe = ReadBandwidth::create(options.place.threads > 0 ? options.place.threads
                                                            : cpu::defaultThreads());

  const auto active = double(weights.active);
  std::vector<double> prefill, decode, reads, used, share;
  int unsteady = 0;
  for (int round = -1; round < options.repeat; ++round) { // the first one touches memory, untimed
    if (options.prompt) {
      MOE_ASSIGN(rate, tokensPerSecond(session, tokens.first(options.prompt), 0, options.prompt));
      if (round >= 0)
        prefill.push_back(rate);
    }
    if (options.generate) {
      double before = probe ? probe->measure() : 0;
      MOE_ASSIGN(rate, tokensPerSecond(session, tokens.first(options.depth + options.generate),
                                       options.depth, 1));
      double after = probe ? probe->measure() : 0;
      if (round < 0)
        continue;
      decode.push_back(rate);
      used.push_back(rate * active);
      if (probe) {
        reads.push_back(before);
        reads.push_back(after);
        share.push_back(rate * active / ((before + after) / 2));
        unsteady += std::max(before, after) > 1.2 * std::min(before, after);
      }
    }
  }

  Spread prefillSpread = spreadOf(prefill), decodeSpread = spreadOf(decode);
  Spread usedSpread = spreadOf(used), readSpread = spreadOf(reads), shareSpread = spreadOf(share);
  if (options.place.json) {
    JsonObject json;
    json.add("device", session.description());
    json.add("repeat", int64_t(options.repeat));
    json.add("prompt_tokens", options.prompt);
    json.add("prefill_tokens_per_second", jsonOf(prefillSpread));
    json.add("generated_tokens", options.generate);
    json.add("depth", options.depth);
    json.add("decode_tokens_per_second", jsonOf(decodeSpread));
    json.add("active_weight_bytes", int64_t(active));
    json.add("weight_bytes_per_second", jsonOf(usedSpread));
    json.add("read_bytes_per_second", jsonOf(readSpread));
    json.add("share_of_read_bandwidth", jsonOf(shareSpread));
    json.add("unsteady_rounds", int64_t(unsteady));
    MOE_TRY(print(json.text() + "\n"));
    return 0;
  }
  std::string report = session.description() + ", " + std::to_string(options.repeat) +
                       " rounds, median (min to max)\n";
  if (options.prompt)
    report += "prefill " + std::to_string(options.prompt) +
              " tokens: " + textOf(prefillSpread, 1, 1) + " tokens/s\n";
  if (options.generate) {
    report += "decode " + std::to_string(options.generate) + " tokens" +
              (options.depth ? " after " + std::to_string(options.depth) : "") + ": " +
              textOf(decodeSpread, 1, 1) + " tokens/s\n";
    if (runtimeAlone)
      report += "the runtime alone: " + fixed(1e6 / decodeSpread.median, 2) + " us a token\n";
    else
      report += "weights: " + fixed(active / 1e6, 1) + " MB a token, " +
                textOf(usedSpread, 1e9, 2) + " GB/s\n";
    if (probe)
      report += "memory reads " + textOf(readSpread, 1e9, 1) + " GB/s beside it; share of that " +
                textOf(shareSpread, 1, 2) + "\n";
    if (unsteady)
      report += "the memory's speed changed by more than 20 % in " + std::to_string(unsteady) +
                " of " + std::to_string(options.repeat) + " rounds: doubt their share\n";
  }
  MOE_TRY(print(report));
  return 0;
}

} // namespace moe
