// Stop strings and detokenization happen between sampling and the caller, so that what is streamed
// is exactly the final text.
#include "runtime/session/Generate.h"

#include "runtime/session/DraftCheck.h"
#include "runtime/session/RequestText.h"

#include <algorithm>
#include <chrono>
#include <optional>

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

bool contains(std::span<const int32_t> tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

// The steps of one sequence: the last token in, and those that follow it out.
class Decoder {
public:
  Decoder(Session &session, int32_t sequence, Sampler &sampler, const GenerateOptions &options)
      : session(session), sequence(sequence), sampler(sampler), options(options),
        most(std::max(0, std::min({options.drafts, session.maxStep() - 1, session.maxRows() - 1}))),
        check(size_t(most)) {
    if (most > 0)
      drafter.emplace();
    tokens.resize(size_t(most) + 1);
  }

  void observePrompt(std::span<const int32_t> prompt) {
    for (int32_t token : prompt)
      sampler.observePrompt(token);
    if (drafter)
      drafter->addPrompt(prompt);
  }

  // A step of the prompt, or of the last token and drafts, of which `room` tokens may come. After
  // an error, too, `chosen` are the tokens that it told.
  Status prefill(std::span<const int32_t> prompt) { return choose(prompt); }
  Status decode(int32_t last, int64_t room) {
    tokens[0] = last;
    const std::span<int32_t> drafts = draft(room);
    if (drafts.empty())
      return choose({&last, 1});
    const int64_t before = session.length(sequence);
    check.start(sampler, drafts);
    const Append part{sequence, std::span(tokens).first(drafts.size() + 1),
                      int64_t(drafts.size()) + 1, true};
    const Status ran = session.run({&part, 1}, [&](size_t, int64_t, std::span<const float> logits) {
      return check.row(logits);
    });
    start = before + 1;
    chosen = check.chosen();
    if (ran) {
      drafted += int64_t(drafts.size());
      accepted += int64_t(check.accepted());
    }
    observe();
    // The last row that counted was of one token more where it told none.
    MOE_TRY(keep(chosen.size() + !ran));
    return ran;
  }

  // The sequence is to be as it was when the first `count` of the tokens chosen were told.
  Status keep(size_t count) {
    const int64_t length = start + int64_t(count) - 1;
    return length < session.length(sequence) ? session.truncate(sequence, length) : ok();
  }

  std::span<const int32_t> chosen;
  int64_t drafted = 0, accepted = 0;

private:
  Status choose(std::span<const int32_t> added) {
    chosen = {};
    MOE_ASSIGN(token, session.sample(sequence, added, sampler));
    sampler.observe(token);
    start = session.length(sequence);
    one = token;
    chosen = {&one, 1};
    observe();
    return ok();
  }

  // Drafts of the next step, of which `room` tokens may come; none after a stop token.
  std::span<int32_t> draft(int64_t room) {
    if (!drafter)
      return {};
    room = std::min({room - 1, session.context() - session.length(sequence) - 1, int64_t(most)});
    if (room < 1)
      return {};
    const std::span<int32_t> drafts = std::span(tokens).subspan(1, size_t(room));
    const size_t count = drafter->propose(drafts, options.draftCost);
    size_t kept = 0;
    while (kept < count && !contains(options.stopTokens, drafts[kept]))
      ++kept;
    return drafts.first(kept);
  }

  void observe() {
    if (drafter)
      for (int32_t token : chosen)
        drafter->add(token);
  }

  Session &session;
  int32_t sequence;
  Sampler &sampler;
  const GenerateOptions &options;
  int32_t most; // drafts of a step
  DraftCheck check;
  std::optional<NgramDrafter> drafter;
  std::vector<int32_t> tokens; // of a step: the last one and drafts
  int32_t one = 0;
  int64_t start = 0; // length of the sequence when the first of `chosen` was told
};

} // namespace

const char *finishReasonName(FinishReason reason) {
  switch (reason) {
  case FinishReason::StopToken:
    return "stop_token";
  case FinishReason::StopString:
    return "stop_string";
  case FinishReason::Length:
    return "length";
  case FinishReason::Cancelled:
    return "cancelled";
  }
  return "";
}

std::vector<int32_t> stopTokensOf(const Plan &plan) {
  const auto *tokens = plan.index().model()->eos_tokens();
  return tokens ? std::vector<int32_t>(tokens->begin(), tokens->end()) : std::vector<int32_t>();
}

Result<Generation> generate(Session &session, int32_t sequence, std::span<const int32_t> prompt,
                            const GenerateOptions &options, const Tokenizer *tokenizer,
                            const OnPiece &onPiece, std::span<const int32_t> history) {
  if (prompt.empty())
    return Error{Code::InvalidArgument, "the prompt has no tokens"};
  int64_t total = session.length(sequence) + int64_t(prompt.size());
  if (total > session.context())
    return Error{Code::ResourceExhausted,
                 "the prompt has " + std::to_string(prompt.size()) + " tokens" +
                     (session.length(sequence)
                          ? " after " + std::to_string(session.length(sequence)) + " before it"
                          : "") +
                     ", the context has room for " + std::to_string(session.context()) +
                     "; ask for more with --context"};
  if (options.drafts < 0)
    return Error{Code::InvalidArgument,
                 "drafts must be 0 (none) or more, not " + std::to_string(options.drafts)};
  MOE_ASSIGN(sampler, Sampler::create(options.sampling, session.vocab()));
  Decoder decoder(session, sequence, sampler, options);
  for (std::span<const int32_t> tokens : {history, prompt})
    decoder.observePrompt(tokens);

  Generation result;
  RequestText text(tokenizer,
                   {.stopStrings = options.stopStrings, .skipSpecial = options.skipSpecial});
  auto finish = [&](FinishReason reason) -> Result<Generation> {
    result.reason = reason;
    result.drafted = decoder.drafted;
    result.accepted = decoder.accepted;
    std::string rest = text.finish();
    if (text.match()) { // the end of a character may complete a stop string
      result.reason = FinishReason::StopString;
      result.stopString = *text.match();
    }
    if (!rest.empty())
      MOE_TRY(onPiece({-1, rest}));
    return std::move(result);
  };

  auto start = Clock::now();
  Status ran = ok();
  if (options.maxTokens == 0) { // nothing to choose
    if (auto logits = session.append(sequence, prompt); !logits)
      ran = logits.error();
  } else {
    ran = decoder.prefill(prompt);
  }
  result.prefillSeconds = secondsSince(start);
  while (true) {
    for (size_t i = 0; i < decoder.chosen.size(); ++i) {
      const int32_t token = decoder.chosen[i];
      result.tokens.push_back(token);
      if (contains(options.stopTokens, token))
        return finish(FinishReason::StopToken);
      std::string certain = text.push(token);
      const Status told = onPiece({token, certain});
      if (!told || text.match())
        MOE_TRY(decoder.keep(i + 1));
      MOE_TRY(told);
      if (text.match())
        return finish(FinishReason::StopString);
    }
    if (!ran && ran.error().code == Code::Cancelled)
      return finish(FinishReason::Cancelled);
    MOE_TRY(ran);
    // After the step of the last position one more token can be told, but not fed.
    const int64_t room =
        (options.maxTokens < 0 ? INT64_MAX : options.maxTokens) - int64_t(result.tokens.size());
    if (session.length(sequence) >= session.context() || room <= 0)
      return finish(FinishReason::Length);
    start = Clock::now();
    ran = decoder.decode(result.tokens.back(), room);
    if (ran) {
      result.decodeSeconds += secondsSince(start);
      ++result.decodeSteps;
    }
  }
}

} // namespace moe
