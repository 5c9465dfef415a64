// Prompts that are no conversation: text, ids, or several of either.
#ifndef MOE_RUNTIME_SERVER_API_PROMPTS_H
#define MOE_RUNTIME_SERVER_API_PROMPTS_H

#include "runtime/server/api/Fields.h"
#include "runtime/server/api/Models.h"

namespace moe::server::api {

inline constexpr size_t kMaxPrompts = 128; // of a request

struct Prompt {
  std::vector<int32_t> ids;
  std::optional<std::string> text; // where it was given as such
};

// A string, an array of strings, an array of ids, or an array of arrays of ids. Text begins with
// BOS where the tokenizer asks for it; special tokens in it count as such.
Check readPrompts(const Json &json, const std::string &where, const ServedModel &model,
                  std::vector<Prompt> &prompts);

// The text as ids, as above.
Check encodeText(const ServedModel &model, const std::string &where, std::string_view text,
                 bool addBos, std::vector<int32_t> &ids);

// What the prompt says, for `echo`.
std::string promptText(const ServedModel &model, const Prompt &prompt);

} // namespace moe::server::api

#endif
