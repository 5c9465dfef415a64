// /v1/completions: what it asks.
#include "runtime/server/api/ChatForm.h"
#include "runtime/server/api/Conversation.h"
#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/Prompts.h"

namespace moe::server::api {

Outcome completions(const Json &body, const Models &models) {
  std::shared_ptr<const ServedModel> model;
  MOE_CHECK(findModel(body, models, model));
  Request request;
  AnswerOptions options;
  MOE_CHECK(readSampling(body, *model, request, options));
  const Json *prompt = nullptr;
  std::optional<int64_t> logprobs, maxTokens = 16; // OpenAI's default
  bool echo = false;
  std::string suffix;
  const Field fields[] = {{"prompt", &prompt},
                          {"logprobs", &logprobs, 0, kMaxLikely},
                          {"max_tokens", &maxTokens, 0},
                          {"echo", &echo},
                          {"suffix", &suffix}};
  MOE_CHECK(readFields(body, fields));
  if (!prompt)
    return Problem::invalid("prompt", "the request has no prompt");
  if (!suffix.empty())
    return Problem::invalid("suffix", "suffix is not supported: the model writes on, not between");
  if (logprobs)
    request.logprobs = int32_t(*logprobs);
  if (echo && logprobs && !request.promptLogprobs)
    request.promptLogprobs = request.logprobs;
  if (!options.ignoreEos)
    request.stopTokens.insert(request.stopTokens.end(), model->stopTokens.begin(),
                              model->stopTokens.end());
  std::vector<Prompt> prompts;
  MOE_CHECK(readPrompts(*prompt, "prompt", *model, prompts));
  if (prompts.size() * size_t(request.choices) > kMaxPrompts)
    return Problem::invalid("n", "n: " + std::to_string(prompts.size()) + " prompts with " +
                                     std::to_string(request.choices) +
                                     " answers each are more than " + std::to_string(kMaxPrompts) +
                                     " answers");

  CompletionsFormOptions form;
  form.logprobs = logprobs.has_value();
  form.promptLogprobs = body.find("prompt_logprobs") != nullptr;
  form.includeUsage = options.includeUsage;
  form.continuousUsage = options.continuousUsage;
  form.perPrompt = request.choices;
  Task task;
  for (Prompt &one : prompts) {
    if (echo)
      form.echo.push_back(promptText(*model, one));
    Request each = request;
    each.prompt = std::move(one.ids);
    MOE_CHECK(limitTokens(*model, maxTokens, "max_tokens", each));
    task.requests.push_back(std::move(each));
  }
  task.stream = options.stream;
  task.cacheSalt = std::move(options.cacheSalt);
  task.grammar = std::move(options.grammar);
  task.grammarField = std::move(options.grammarField);
  task.form = makeCompletionsForm(model, std::move(form));
  task.model = std::move(model);
  return task;
}

} // namespace moe::server::api
