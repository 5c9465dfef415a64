// moe-run PLAN -p TEXT: the text that follows a prompt.
#include "tools/moe-run/Commands.h"
#include "tools/moe-run/Output.h"
#include "tools/moe-run/Pictures.h"

#include <chrono>
#include <cstdio>

namespace moe {
namespace {

double rate(int64_t count, double seconds) { return seconds > 0 ? double(count) / seconds : 0; }

} // namespace

Result<int> runPrompt(const RunOptions &options) {
  MOE_ASSIGN(opened, openPlan(options.place));
  MOE_ASSIGN(given, promptWithPictures(options.prompt, options.media, *opened));
  const std::vector<int32_t> &prompt = given.tokens;
  const Tokenizer *tokenizer = opened->tokenizer ? &*opened->tokenizer : nullptr;
  MOE_ASSIGN(generation, generateOptions(options.text, stopTokensOf(opened->plan), tokenizer));

  auto start = std::chrono::steady_clock::now();
  MOE_ASSIGN(session, createSession(opened->plan, sessionOptions(options.place)));
  double loadSeconds =
      opened->openSeconds +
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  catchInterrupts();
  session.setCancel(&interrupted);
  MOE_ASSIGN(sequence, session.addSequence());
  start = std::chrono::steady_clock::now();
  MOE_TRY(setPictures(session, sequence, given, *opened));
  const double encodeSeconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  int64_t tiles = 0;
  for (const Tiles &picture : given.pictures)
    tiles += picture.count();

  std::string text;
  bool first = true;
  MOE_ASSIGN(result, generate(session, sequence, prompt, generation, tokenizer,
                              [&](const Piece &piece) -> Status {
                                text += piece.text;
                                if (options.place.json)
                                  return ok();
                                if (tokenizer)
                                  return piece.text.empty() ? ok() : print(piece.text);
                                std::string id = (first ? "" : " ") + std::to_string(piece.token);
                                first = false;
                                return print(id);
                              }));

  double prefill = rate(int64_t(prompt.size()), result.prefillSeconds);
  double decode = rate(int64_t(result.tokens.size()) - 1, result.decodeSeconds);
  if (options.place.json) {
    JsonObject json;
    if (tokenizer)
      json.add("text", text);
    json.add("tokens", result.tokens);
    json.add("finish_reason", finishReasonName(result.reason));
    if (!result.stopString.empty())
      json.add("stop_string", result.stopString);
    json.add("prompt_tokens", int64_t(prompt.size()));
    if (tiles) {
      json.add("tiles", tiles);
      json.add("tiles_per_second", rate(tiles, encodeSeconds));
    }
    json.add("prefill_tokens_per_second", prefill);
    json.add("generated_tokens", int64_t(result.tokens.size()));
    json.add("decode_tokens_per_second", decode);
    json.add("decode_steps", result.decodeSteps);
    json.add("drafted_tokens", result.drafted);
    json.add("accepted_tokens", result.accepted);
    json.add("load_seconds", loadSeconds);
    json.add("device", session.description());
    json.add("context", session.context());
    json.add("cache_bytes", int64_t(session.cacheBytes()));
    MOE_TRY(print(json.text() + "\n"));
  } else {
    if (!text.ends_with('\n'))
      MOE_TRY(print("\n"));
    std::string drafts, pictures;
    if (tiles)
      pictures = std::to_string(tiles) + (tiles == 1 ? " tile, " : " tiles, ") +
                 fixed(rate(tiles, encodeSeconds), 1) + " tiles/s; ";
    if (options.text.drafts > 0)
      drafts = "; " + std::to_string(result.accepted) + " of " + std::to_string(result.drafted) +
               " drafts accepted";
    std::fprintf(
        stderr,
        "%sprompt %zu tokens, %s tokens/s; generated %zu tokens, %s tokens/s%s; %s; loaded "
        "in %s s; %s\n",
        pictures.c_str(), prompt.size(), fixed(prefill, 1).c_str(), result.tokens.size(),
        fixed(decode, 1).c_str(), drafts.c_str(), finishReasonName(result.reason),
        fixed(loadSeconds, 3).c_str(), session.description().c_str());
  }
  return result.reason == FinishReason::Cancelled ? kInterrupted : 0;
}

} // namespace moe
