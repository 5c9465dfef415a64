// What all commands do: open the plan, read options, notice Ctrl-C.
#include "tools/Terminal.h"
#include "tools/moe-run/Commands.h"
#include "tools/moe-run/Files.h"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <unistd.h>

namespace moe {

std::atomic<bool> interrupted{false};

void catchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = [](int) {
    if (interrupted.exchange(true))
      _exit(kInterrupted);
  };
  sigaction(SIGINT, &action, nullptr); // without SA_RESTART: reading a line ends too
}

Result<std::unique_ptr<Opened>> openPlan(const PlaceOptions &place) {
  auto start = std::chrono::steady_clock::now();
  OpenOptions options;
  options.load = place.load == "read" ? OpenOptions::Load::Read : OpenOptions::Load::Map;
  MOE_ASSIGN(plan, Plan::open(place.plan, options));
  auto opened = std::make_unique<Opened>(Opened{std::move(plan), std::nullopt, 0});
  MOE_ASSIGN(tokenizer, planTokenizer(opened->plan));
  opened->tokenizer = std::move(tokenizer);
  opened->openSeconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return opened;
}

SessionOptions sessionOptions(const PlaceOptions &place) {
  SessionOptions options;
  options.device = place.device;
  options.threads = place.threads;
  options.numa = cpu::numaNamed(place.numa).value_or(cpu::Numa::Auto);
  options.context = place.context;
  return options;
}

Result<std::vector<int32_t>> promptTokens(const PromptOptions &prompt, const Opened &opened) {
  if (prompt.tokenFile)
    return readTokens(*prompt.tokenFile, opened.vocab());
  if (!opened.tokenizer)
    return Error{Code::InvalidArgument,
                 "this plan has no tokenizer: give the prompt as ids with --tokens FILE"};
  if (prompt.text)
    return encodePrompt(*opened.tokenizer, *prompt.text);
  MOE_ASSIGN(text, readAll(*prompt.file));
  return encodePrompt(*opened.tokenizer, text);
}

Result<Session> createSession(const Plan &plan, SessionOptions options) {
  ProgressBar bar;
  options.progress = [&](uint64_t done, uint64_t total) {
    bar.show(done, total,
             "weights: " + bytesText(double(done)) + " of " + bytesText(double(total)));
  };
  return Session::create(plan, options);
}

Result<GenerateOptions> generateOptions(const TextOptions &text, std::vector<int32_t> stopTokens,
                                        bool hasTokenizer) {
  if (!text.stop.empty() && !hasTokenizer)
    return Error{Code::InvalidArgument, "--stop needs text, and this plan has no tokenizer"};
  GenerateOptions options;
  options.sampling = text.sampling;
  options.maxTokens = text.maxTokens;
  options.stopStrings = text.stop;
  options.drafts = text.drafts;
  if (!text.ignoreEos)
    options.stopTokens = std::move(stopTokens);
  return options;
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

} // namespace moe
