// The models that are served, by name.
#ifndef MOE_RUNTIME_SERVER_API_MODELS_H
#define MOE_RUNTIME_SERVER_API_MODELS_H

#include "runtime/server/Generator.h"
#include "runtime/server/Grammar.h"
#include "runtime/text/ChatTemplate.h"

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace moe::server::api {

// Everything that answers need of a plan. Requests that run share it, so it may leave the registry
// at any time; the last of them to end destroys it, on the thread that takes the events.
struct ServedModel {
  std::string name;
  std::vector<std::string> aliases;
  std::string hash;                  // of the plan, as answers have it in `system_fingerprint`
  int64_t created = 0;               // seconds since 1970
  std::shared_ptr<const void> owner; // what the pointers below refer to and do not own
  std::shared_ptr<const Tokenizer> tokenizer; // null: prompts are ids, and answers have no text
  std::shared_ptr<const ChatTemplate> chat;   // null: no conversations
  std::shared_ptr<GrammarCompiler> grammars;  // null: no constrained output
  std::shared_ptr<Generator> generator;
  std::vector<int32_t> stopTokens; // that end a text
  SamplerOptions sampling;         // where a request does not say
};

// Any number of threads.
class Models {
public:
  // Takes the place of a model of the same name.
  void put(std::shared_ptr<const ServedModel> model);
  // Requests that run go on.
  void remove(const std::string &name);
  // By name or alias; the first model for an empty name. Null: there is none.
  std::shared_ptr<const ServedModel> find(const std::string &name) const;
  std::vector<std::shared_ptr<const ServedModel>> all() const; // in the order they came

private:
  mutable std::mutex mutex;
  std::vector<std::shared_ptr<const ServedModel>> models;
};

} // namespace moe::server::api

#endif
