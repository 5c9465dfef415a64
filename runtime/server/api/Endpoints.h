// What each endpoint makes of a body: a task for the model, an answer that is there at once, or a
// problem. Called on a worker's thread.
#ifndef MOE_RUNTIME_SERVER_API_ENDPOINTS_H
#define MOE_RUNTIME_SERVER_API_ENDPOINTS_H

#include "runtime/server/api/Answer.h"
#include "runtime/server/api/Sampling.h"

namespace moe::server::api {

using Outcome = std::variant<Problem, std::string, Task>; // string: the body of a 200

Outcome chatCompletions(const Json &body, const Models &models);
Outcome completions(const Json &body, const Models &models);
Outcome messages(const Json &body, const Models &models);
Outcome countTokens(const Json &body, const Models &models);
Outcome responses(const Json &body, const Models &models);
Outcome embeddings(const Json &body, const Models &models);
Outcome tokenize(const Json &body, const Models &models);
Outcome detokenize(const Json &body, const Models &models);
Outcome applyTemplate(const Json &body, const Models &models);

// The model that a body names; the first if it names none.
Check findModel(const Json &body, const Models &models, std::shared_ptr<const ServedModel> &model);

// `messages` and what belongs to them in /v1/chat/completions. Chat.cpp.
struct ChatInput;
Check readChat(const Json &body, ChatInput &input);

// The prefix that the cache may share: a hash of what the request names as its salt; 0 if nothing.
uint64_t saltOf(std::string_view key, std::string_view salt);

// What the answer says of itself.
struct Head {
  std::string id, model, fingerprint;
  int64_t created = 0;
  Head(const char *prefix, const ServedModel &model);
};
std::string randomId(const char *prefix); // and 24 letters and digits

} // namespace moe::server::api

#endif
