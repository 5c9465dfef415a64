// moe-run embed PLAN -p TEXT: one vector of a text, out of the hidden states of its tokens.
#include "runtime/session/Pooling.h"
#include "tools/moe-run/Commands.h"
#include "tools/moe-run/Output.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace moe {

Result<int> runEmbed(const EmbedOptions &options) {
  MOE_ASSIGN(opened, openPlan(options.place));
  MOE_ASSIGN(tokens, promptTokens(options.prompt, *opened));
  const int64_t count = int64_t(tokens.size());
  if (count == 0)
    return Error{Code::InvalidArgument, "there are no tokens to embed"};
  const auto positions = int64_t(opened->plan.index().model()->max_positions());
  if (count > positions)
    return Error{Code::InvalidArgument, "the text has " + std::to_string(count) +
                                            " tokens, more than the " + std::to_string(positions) +
                                            " positions of the plan; embed it in parts"};
  SessionOptions sessionWith = sessionOptions(options.place);
  if (sessionWith.context == 0)
    sessionWith.context = count;
  MOE_ASSIGN(session, createSession(opened->plan, sessionWith));
  catchInterrupts();
  session.setCancel(&interrupted);

  const PoolingKind kind = *poolingNamed(options.pooling);
  Pooling pooling(session.hidden());
  MOE_ASSIGN(sequence, session.addSequence());
  Append part{sequence, tokens, kind == PoolingKind::Mean ? count : 1};
  part.hidden = true;
  MOE_TRY(session.run({&part, 1}, [&](size_t, int64_t, std::span<const float> state) {
    pooling.add(state);
    return ok();
  }));
  const std::vector<float> vector = pooling.result(kind);
  if (!std::all_of(vector.begin(), vector.end(), [](float x) { return std::isfinite(x); }))
    return Error{Code::InvalidPlan, "the model's hidden states are not all numbers"};

  if (options.place.json) {
    JsonObject json;
    json.add("embedding", std::span(vector));
    json.add("pooling", options.pooling);
    json.add("tokens", count);
    json.add("device", session.description());
    MOE_TRY(print(json.text() + "\n"));
    return 0;
  }
  std::string line;
  for (float x : vector)
    line += (line.empty() ? "" : " ") + numberText(x);
  MOE_TRY(print(line + "\n"));
  std::fprintf(stderr, "%zu channels, %s of %lld tokens; %s\n", vector.size(),
               options.pooling.c_str(), static_cast<long long>(count),
               session.description().c_str());
  return 0;
}

} // namespace moe
