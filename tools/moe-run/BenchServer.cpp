// moe-run bench PLAN --serve: short turns on request, so that a comparison can alternate with
// another program while both stay loaded. Between turns its threads sleep.
#include "tools/moe-run/Bench.h"
#include "tools/moe-run/Output.h"

#include <iostream>
#include <sstream>
#include <sys/resource.h>

namespace moe {
namespace {

double processorSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval &time) {
    return double(time.tv_sec) + 1e-6 * double(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// What a line asks for: `count` tokens after `before`, in steps of `step`.
struct Turn {
  int64_t count = 0, before = 0, step = 1;
};

Result<Turn> parseTurn(const std::string &line, int64_t context) {
  std::istringstream words(line);
  std::string command, excess;
  Turn turn;
  words >> command >> turn.count;
  bool known = bool(words) && (command == "prefill" || command == "decode");
  if (known && command == "prefill")
    turn.step = turn.count;
  if (known && command == "decode" && !(words >> turn.before)) {
    turn.before = 0;
    known = words.eof();
    words.clear();
  }
  if (!known || (words >> excess))
    return Error{Code::InvalidArgument,
                 "'" + line + "' is not understood: prefill N, or decode N [AFTER]"};
  if (turn.count < 1 || turn.before < 0 || turn.count > context ||
      turn.before > context - turn.count)
    return Error{Code::InvalidArgument, std::to_string(turn.count) + " tokens after " +
                                            std::to_string(turn.before) +
                                            ": there is room for 1 to " + std::to_string(context) +
                                            "; --context says how much"};
  return turn;
}

} // namespace

Status serveBench(Session &session, std::span<const int32_t> tokens, const WeightBytes &weights) {
  JsonObject hello;
  hello.add("device", session.description());
  hello.add("vocab", session.vocab());
  hello.add("context", session.context());
  hello.add("weight_bytes", int64_t(weights.all));
  hello.add("active_weight_bytes", int64_t(weights.active));
  hello.add("cache_bytes", int64_t(session.cacheBytes()));
  MOE_TRY(print(hello.text() + "\n"));
  for (std::string line; std::getline(std::cin, line);) {
    JsonObject answer;
    if (Result<Turn> turn = parseTurn(line, int64_t(tokens.size())); !turn) {
      answer.add("error", turn.error().message);
    } else {
      double before = processorSeconds();
      MOE_ASSIGN(seconds, benchTurn(session, tokens.first(size_t(turn->before + turn->count)),
                                    turn->before, turn->step));
      answer.add("tokens", turn->count);
      answer.add("seconds", seconds);
      answer.add("processor_seconds", processorSeconds() - before); // untimed tokens included
    }
    MOE_TRY(print(answer.text() + "\n"));
  }
  return ok();
}

} // namespace moe
