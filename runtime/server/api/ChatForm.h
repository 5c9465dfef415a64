// How /v1/chat/completions and /v1/completions answer.
#ifndef MOE_RUNTIME_SERVER_API_CHATFORM_H
#define MOE_RUNTIME_SERVER_API_CHATFORM_H

#include "runtime/server/api/Answer.h"

namespace moe::server::api {

struct ChatFormOptions {
  bool logprobs = false, promptLogprobs = false;
  bool includeUsage = false, continuousUsage = false; // of a stream
  bool tools = false;                                 // answers may be calls alone
};
std::unique_ptr<Form> makeChatForm(std::shared_ptr<const ServedModel> model,
                                   const ChatFormOptions &options);

struct CompletionsFormOptions {
  bool logprobs = false, promptLogprobs = false;
  bool includeUsage = false, continuousUsage = false;
  int32_t perPrompt = 1; // choices
  std::vector<std::string>
      echo; // of each prompt its text, to go before the answers; empty: no echo
};
std::unique_ptr<Form> makeCompletionsForm(std::shared_ptr<const ServedModel> model,
                                          CompletionsFormOptions options);

} // namespace moe::server::api

#endif
