// Asks a plan for the likeliest first token, with the installed runtime.
#include "runtime/session/Session.h"

#include <algorithm>
#include <cstdio>

namespace {

moe::Result<int32_t> firstToken(const char *path) {
  MOE_ASSIGN(plan, moe::Plan::open(path));
  MOE_ASSIGN(session, moe::Session::create(plan, {}));
  MOE_ASSIGN(sequence, session.addSequence());
  const int32_t prompt[] = {0};
  MOE_ASSIGN(logits, session.append(sequence, prompt));
  return int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

} // namespace

int main(int argc, char **argv) {
  auto token = firstToken(argc > 1 ? argv[1] : "");
  if (!token) {
    std::fprintf(stderr, "error: %s\n", token.error().message.c_str());
    return 1;
  }
  std::printf("token %d\n", *token);
}
