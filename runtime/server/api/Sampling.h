// The fields that the endpoints share: how tokens are chosen, where an answer ends, what it may be.
#ifndef MOE_RUNTIME_SERVER_API_SAMPLING_H
#define MOE_RUNTIME_SERVER_API_SAMPLING_H

#include "runtime/server/api/Fields.h"
#include "runtime/server/api/Models.h"

namespace moe::server::api {

// What a request says of its answer beside the prompt.
struct AnswerOptions {
  bool stream = false, includeUsage = false, continuousUsage = false;
  bool ignoreEos = false; // the model's own stop tokens are tokens like others
  std::optional<int64_t> maxTokens;
  std::string cacheSalt;
  std::optional<GrammarSource> grammar;
  std::string grammarField; // which asked for it
};

inline constexpr int64_t kMaxChoices = 16, kMaxStopStrings = 16, kMaxLikely = 20;

// Of chat and completions: all but the names of logprobs and of the limit of tokens, which differ.
Check readSampling(const Json &body, const ServedModel &model, Request &request,
                   AnswerOptions &options);

// `stop`, or what another API calls it: a string or a list of them.
Check readStop(const Json &body, const char *member, std::vector<std::string> &stop);

// A member {"type": "text" | "json_object" | "json_schema", ...}. Where `inner` is given, a schema
// is in a member of that name, else beside the type.
Check readFormat(const Json &format, const std::string &where, const char *inner,
                 AnswerOptions &options);

// The sampling options of the model with a seed of their own.
SamplerOptions defaultSampling(const ServedModel &model);

} // namespace moe::server::api

#endif
