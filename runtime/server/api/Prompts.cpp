#include "runtime/server/api/Prompts.h"

#include "runtime/server/api/Conversation.h"
#include "runtime/text/Utf8.h"

namespace moe::server::api {

Check encodeText(const ServedModel &model, const std::string &where, std::string_view text,
                 bool addBos, std::vector<int32_t> &ids) {
  if (!model.tokenizer)
    return Problem::invalid(where, where + ": the model has no tokenizer; send ids");
  MOE_CHECK(limitBytes(model, text.size()));
  if (addBos)
    ids = encodePrompt(*model.tokenizer, text);
  else
    model.tokenizer->encode(text, ids);
  return std::nullopt;
}

Check readPrompts(const Json &json, const std::string &where, const ServedModel &model,
                  std::vector<Prompt> &prompts) {
  const auto addText = [&](const std::string &text, const std::string &at) -> Check {
    Prompt prompt{{}, text};
    MOE_CHECK(encodeText(model, at, text, true, prompt.ids));
    prompts.push_back(std::move(prompt));
    return std::nullopt;
  };
  const auto addIds = [&](const JsonArray &ids, const std::string &at) -> Check {
    Prompt prompt;
    MOE_CHECK(readIds(ids, model.generator->vocab(), at, prompt.ids));
    prompts.push_back(std::move(prompt));
    return std::nullopt;
  };
  if (json.string())
    return addText(*json.string(), where);
  const JsonArray *array = json.array();
  if (!array)
    return Problem::invalid(where, where + ": found " + json.kind() +
                                       ", expected a string, an array of strings, of ids, or of "
                                       "arrays of ids");
  if (array->empty())
    return Problem::invalid(where, where + " is empty; expected at least one token");
  if (!array->front().string() && !array->front().array())
    return addIds(*array, where);
  if (array->size() > kMaxPrompts)
    return Problem::invalid(where, where + ": found " + std::to_string(array->size()) +
                                       " prompts, expected at most " + std::to_string(kMaxPrompts));
  for (size_t i = 0; i < array->size(); ++i) {
    const Json &element = (*array)[i];
    const std::string at = pathOf(where, i);
    if (element.string())
      MOE_CHECK(addText(*element.string(), at));
    else if (element.array())
      MOE_CHECK(addIds(*element.array(), at));
    else
      return Problem::invalid(at, at + ": found " + element.kind() +
                                      ", expected a string or an array of ids");
  }
  return std::nullopt;
}

std::string promptText(const ServedModel &model, const Prompt &prompt) {
  if (prompt.text)
    return *prompt.text;
  return model.tokenizer
             ? replaceInvalidUtf8(model.tokenizer->decode(prompt.ids, /*skipSpecial=*/true))
             : std::string();
}

} // namespace moe::server::api
