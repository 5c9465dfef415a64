// moe-run score PLAN --tokens FILE: how well the model predicts a text, and its logits.
#include "tools/moe-run/Commands.h"
#include "tools/moe-run/Files.h"
#include "tools/moe-run/Output.h"
#include "tools/moe-run/Pictures.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace moe {
namespace {

// -log of the probability of `target`; not a number if a logit is not.
double negativeLogLikelihood(std::span<const float> logits, int32_t target) {
  float best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits)
    sum += std::exp(double(logit) - best);
  return std::log(sum) + best - logits[target];
}

int32_t largestStep(const Plan &plan) {
  uint32_t tokens = 1;
  for (const std::string &device : planDevices(plan))
    for (const fb::Program *program : plan.programs(device))
      tokens = std::max(tokens, program->tokens());
  return int32_t(tokens);
}

} // namespace

Result<int> runScore(const ScoreOptions &options) {
  MOE_ASSIGN(opened, openPlan(options.place));
  PromptOptions from;
  from.tokenFile = options.tokenFile;
  std::vector<MediaFile> media;
  for (const std::string &name : options.images)
    media.push_back({name});
  MOE_ASSIGN(prompt, promptWithPictures(from, media, *opened));
  const std::vector<int32_t> &tokens = prompt.tokens;
  if (!media.empty() && options.window)
    return Error{Code::InvalidArgument, "--window would cut pictures: leave it out with --image"};
  const int64_t count = int64_t(tokens.size());
  const int64_t window = options.window ? std::min(options.window, count) : count;
  const int64_t predictions = count - (count + window - 1) / window;
  if (predictions < 1)
    return Error{Code::InvalidArgument,
                 "a score needs a token that follows another one: there are " +
                     std::to_string(count) + " tokens in windows of " + std::to_string(window)};
  const auto positions = int64_t(opened->plan.index().model()->max_positions());
  if (window > positions)
    return Error{Code::InvalidArgument, std::to_string(window) + " tokens are more than the " +
                                            std::to_string(positions) +
                                            " positions of the plan; split them with --window " +
                                            std::to_string(positions)};

  SessionOptions sessionWith = sessionOptions(options.place);
  if (sessionWith.context == 0)
    sessionWith.context = window;
  // Short windows share steps.
  const int64_t together =
      std::clamp<int64_t>(largestStep(opened->plan) / window, 1, (count + window - 1) / window);
  sessionWith.maxSequences = int32_t(together);
  MOE_ASSIGN(session, createSession(opened->plan, sessionWith));
  catchInterrupts();
  session.setCancel(&interrupted);

  std::optional<NpyWriter> logitsFile;
  if (!options.logits.empty()) {
    MOE_ASSIGN(writer, NpyWriter::create(options.logits, count, session.vocab()));
    logitsFile.emplace(std::move(writer));
  }
  double sum = 0;
  auto start = std::chrono::steady_clock::now();
  std::vector<Append> parts;
  for (int64_t first = 0; first < count; first += together * window) {
    parts.clear();
    for (int64_t at = first; at < std::min(count, first + together * window); at += window) {
      MOE_ASSIGN(sequence, session.addSequence());
      int64_t length = std::min(window, count - at);
      MOE_TRY(setPictures(session, sequence, prompt, *opened));
      parts.push_back({sequence, std::span<const int32_t>(tokens).subspan(at, length), length});
    }
    auto onRow = [&](size_t part, int64_t token, std::span<const float> logits) -> Status {
      if (token + 1 < int64_t(parts[part].tokens.size()))
        sum += negativeLogLikelihood(logits, parts[part].tokens[token + 1]);
      return logitsFile ? logitsFile->write(logits) : ok();
    };
    MOE_TRY(session.run(parts, onRow));
    for (const Append &part : parts)
      session.removeSequence(part.sequence);
  }
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (logitsFile)
    MOE_TRY(logitsFile->close());

  double mean = sum / double(predictions), speed = double(count) / seconds;
  if (options.place.json) {
    JsonObject json;
    json.add("tokens", count);
    json.add("window", window);
    json.add("predictions", predictions);
    json.add("mean_nll", mean);
    json.add("perplexity", std::exp(mean));
    json.add("tokens_per_second", speed);
    json.add("device", session.description());
    MOE_TRY(print(json.text() + "\n"));
  } else {
    MOE_TRY(print("perplexity " + fixed(std::exp(mean), 4) + ", mean NLL " + fixed(mean, 6) +
                  " over " + std::to_string(predictions) + " predictions of " +
                  std::to_string(count) + " tokens, windows of " + std::to_string(window) + "\n"));
    std::fprintf(stderr, "%s tokens/s; %s\n", fixed(speed, 1).c_str(),
                 session.description().c_str());
  }
  if (!std::isfinite(mean))
    return Error{Code::InvalidPlan, "the model's logits are not all numbers"};
  return 0;
}

} // namespace moe
