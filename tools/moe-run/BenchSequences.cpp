// moe-run bench PLAN --sequences N: what a server that answers N requests at a time can have of a
// plan: steps of one token each, without anything beside them.
#include "tools/moe-run/Bench.h"
#include "tools/moe-run/Commands.h"

#include <algorithm>
#include <chrono>

namespace moe {
namespace {

// One round: each sequence gets its prompt, untimed, then one token in each of the steps. Seconds
// of those.
Result<double> decodeTogether(Session &session, std::span<const int32_t> tokens, int32_t count,
                              int64_t prompt, int64_t steps) {
  std::vector<Append> parts;
  std::vector<Sampler> samplers; // greedy; used by a device that chooses tokens itself
  std::vector<int32_t> chosen;
  chosen.resize(size_t(count));
  const auto workspace = Sampler::makeWorkspace(session.vocab());
  samplers.reserve(size_t(count));
  for (int32_t i = 0; i < count; ++i) {
    MOE_ASSIGN(sequence, session.addSequence());
    MOE_ASSIGN(sampler, Sampler::create({}, session.vocab(), workspace));
    samplers.push_back(std::move(sampler));
    Append part{sequence, {}, 1};
    if (session.samplesOnDevice()) {
      part.sampler = &samplers.back();
      part.sampled = &chosen[size_t(i)];
    }
    parts.push_back(part);
  }
  const auto run = [&](size_t begin, size_t length) {
    for (size_t i = 0; i < parts.size(); ++i) // other tokens in each, so that experts differ
      parts[i].tokens = tokens.subspan(begin + i, length);
    return session.run(parts, [](size_t, int64_t, std::span<const float>) { return ok(); });
  };
  MOE_TRY(run(0, size_t(prompt)));
  const auto start = std::chrono::steady_clock::now();
  for (int64_t step = 0; step < steps; ++step)
    MOE_TRY(run(size_t(prompt + step), 1));
  const auto end = std::chrono::steady_clock::now();
  for (const Append &part : parts)
    session.removeSequence(part.sequence);
  return std::chrono::duration<double>(end - start).count();
}

} // namespace

Status benchSequences(const Plan &plan, const BenchOptions &options) {
  if (options.prompt < 1 || options.generate < 1)
    return Error{Code::InvalidArgument,
                 "sequences that decode together need a prompt and something "
                 "to generate: --prompt and --generate of at least 1"};
  SessionOptions with = sessionOptions(options.place);
  with.maxSequences = *std::max_element(options.sequences.begin(), options.sequences.end());
  if (with.context == 0)
    with.context = options.prompt + options.generate;
  MOE_ASSIGN(session, createSession(plan, with));
  catchInterrupts();
  session.setCancel(&interrupted);
  const std::vector<int32_t> tokens =
      randomTokens(options.prompt + options.generate + with.maxSequences, session.vocab());

  std::string report = session.description() + ", " + std::to_string(options.repeat) +
                       " rounds of " + std::to_string(options.generate) +
                       " steps after prompts of " + std::to_string(options.prompt) +
                       " tokens, median (min to max)\n";
  std::vector<JsonObject> rows;
  for (int32_t count : options.sequences) {
    std::vector<double> rates, steps;
    for (int round = -1; round < options.repeat; ++round) { // the first one touches memory, untimed
      MOE_ASSIGN(seconds, decodeTogether(session, tokens, count, options.prompt, options.generate));
      if (round < 0)
        continue;
      rates.push_back(double(count) * double(options.generate) / seconds);
      steps.push_back(seconds / double(options.generate));
    }
    const Spread rate = spreadOf(rates), step = spreadOf(steps);
    JsonObject &row = rows.emplace_back();
    row.add("sequences", int64_t(count));
    row.add("decode_tokens_per_second", jsonOf(rate));
    row.add("step_seconds", jsonOf(step));
    report += std::to_string(count) + (count == 1 ? " sequence: " : " sequences: ") +
              textOf(rate, 1, 1) + " tokens/s, " + textOf(step, 1e-3, 2) + " ms a step\n";
  }
  if (!options.place.json)
    return print(report);
  JsonObject json;
  json.add("device", session.description());
  json.add("repeat", int64_t(options.repeat));
  json.add("prompt_tokens", options.prompt);
  json.add("generated_tokens", options.generate);
  json.add("batches", std::span<const JsonObject>(rows));
  return print(json.text() + "\n");
}

} // namespace moe
