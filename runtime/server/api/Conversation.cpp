#include "runtime/server/api/Conversation.h"

#include "runtime/server/api/JsonText.h"

#include <algorithm>

namespace moe::server::api {
namespace {

Problem tooLong(std::string message) {
  return {400, std::move(message), {}, "context_length_exceeded", {}};
}

// What calls have to be: in an answer that must have some, of all tools; in one that may, of those
// that are strict.
GrammarSource callsOf(const ChatInput &input) {
  GrammarSource source{GrammarSource::Kind::ToolCalls, {}, {}};
  source.several = input.several;
  source.amidText = input.choice == ToolChoice::Auto;
  JsonWriter json(source.text);
  json.beginArray();
  for (const Tool &tool : input.tools) {
    if ((!input.named.empty() && tool.name != input.named) || (source.amidText && !tool.strict))
      continue;
    json.beginObject().member("name", tool.name).key("parameters");
    json.raw(tool.parameters.empty() ? R"({"type":"object"})" : tool.parameters);
    json.member("strict", tool.strict).endObject();
    source.strict = source.strict || tool.strict;
  }
  json.endArray();
  return source;
}

} // namespace

Check checkToolName(const std::string &name, const std::string &where) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  };
  if (!name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), allowed))
    return std::nullopt;
  return Problem::invalid(where,
                          where + ": expected a name of 1 to 128 letters, digits, _, - or .");
}

std::string toolJson(const Tool &tool, const std::string &description) {
  std::string out;
  JsonWriter json(out);
  json.beginObject().member("type", "function").key("function").beginObject();
  json.member("name", tool.name);
  if (!description.empty())
    json.member("description", description);
  if (!tool.parameters.empty())
    json.key("parameters").raw(tool.parameters);
  json.endObject().endObject();
  return out;
}

Check checkToolChoice(const ChatInput &input, bool byName, const std::string &where) {
  const auto isNamed = [&](const Tool &tool) { return tool.name == input.named; };
  if (byName && std::none_of(input.tools.begin(), input.tools.end(), isNamed))
    return Problem::invalid(where, "tool_choice: the request has no tool '" +
                                       input.named.substr(0, 64) + "'");
  if (input.choice == ToolChoice::Required && input.tools.empty())
    return Problem::invalid("tool_choice",
                            "tool_choice: a call is required, but there are no tools");
  return std::nullopt;
}

Check readToolChoice(const std::string &word, ChatInput &input) {
  constexpr const char *kNames[] = {"auto", "none", "required"};
  constexpr ToolChoice kMeanings[] = {ToolChoice::Auto, ToolChoice::None, ToolChoice::Required};
  const auto at = std::find(std::begin(kNames), std::end(kNames), word);
  if (at == std::end(kNames))
    return Problem::invalid("tool_choice", "tool_choice: found '" + word.substr(0, 64) +
                                               "', expected 'auto', 'none', 'required' or a "
                                               "function");
  input.choice = kMeanings[at - std::begin(kNames)];
  return checkToolChoice(input, false, "tool_choice");
}

void addStopTokens(const ServedModel &model, Request &request) {
  std::vector<int32_t> &stop = request.stopTokens;
  stop.insert(stop.end(), model.stopTokens.begin(), model.stopTokens.end());
  if (model.chat)
    stop.insert(stop.end(), model.chat->stopTokens().begin(), model.chat->stopTokens().end());
}

Check readTextPart(const Json &part, std::span<const char *const> types, const std::string &where,
                   std::string &text) {
  std::string type, more;
  const Field field{"type", &type};
  MOE_CHECK(readFields(part, {&field, 1}, where));
  if (type == "image_url" || type == "image" || type == "input_image")
    return Problem::invalid(where, "this model takes no images");
  if (std::none_of(types.begin(), types.end(), [&](const char *is) { return type == is; }))
    return Problem::invalid(pathOf(where, "type"), "content of type '" + type.substr(0, 64) +
                                                       "' is not supported; expected '" + types[0] +
                                                       "'");
  const char *member = type == "refusal" ? "refusal" : "text";
  const Field words{member, &more};
  if (!part.find(member))
    return Problem::invalid(pathOf(where, member), where + " has no " + member);
  MOE_CHECK(readFields(part, {&words, 1}, where));
  text += more;
  return std::nullopt;
}

Check readText(const Json &content, std::span<const char *const> types, const std::string &where,
               std::string &text) {
  if (const std::string *all = content.string()) {
    text += *all;
    return std::nullopt;
  }
  if (!content.array())
    return Problem::invalid(where, where + ": found " + content.kind() +
                                       ", expected a string or an array of parts");
  for (size_t i = 0; i < content.array()->size(); ++i)
    MOE_CHECK(readTextPart((*content.array())[i], types, pathOf(where, i), text));
  return std::nullopt;
}

Check limitBytes(const ServedModel &model, size_t bytes) {
  const int64_t context = model.generator->context();
  if (bytes <= 16 * size_t(context)) // hardly any text has tokens so long
    return std::nullopt;
  return tooLong("the prompt has " + std::to_string(bytes) +
                 " bytes, more than there is room for in a context of " + std::to_string(context) +
                 " tokens");
}

Check limitTokens(const ServedModel &model, const std::optional<int64_t> &maxTokens,
                  const char *maxField, Request &request) {
  const int64_t context = model.generator->context(), prompt = int64_t(request.prompt.size());
  if (prompt == 0)
    return Problem::invalid("prompt", "the prompt is empty; expected at least one token");
  if (prompt >= context && maxTokens != 0)
    return tooLong("the prompt has " + std::to_string(prompt) +
                   " tokens, which leaves no room for an answer in the model's context of " +
                   std::to_string(context));
  if (maxTokens.value_or(0) > context - prompt)
    return tooLong("the prompt has " + std::to_string(prompt) + " tokens and " + maxField +
                   " asks for " + std::to_string(*maxTokens) +
                   " more, but the model's context is " + std::to_string(context) +
                   "; shorten the prompt or lower " + maxField);
  request.maxTokens = maxTokens.value_or(context - prompt);
  if (request.minTokens > request.maxTokens)
    return Problem::invalid("min_tokens", "min_tokens: found " + std::to_string(request.minTokens) +
                                              ", more than the answer may have, " +
                                              std::to_string(request.maxTokens));
  return std::nullopt;
}

Check render(const ServedModel &model, const ChatInput &input, std::vector<int32_t> &ids) {
  if (!model.chat)
    return Problem::invalid("messages", "the model has no chat template; use /v1/completions");
  size_t bytes = 0;
  for (const Message &message : input.messages) {
    bytes += message.text.size();
    for (const ToolCall &call : message.calls)
      bytes += call.arguments.size();
  }
  std::vector<std::string> tools;
  if (input.choice != ToolChoice::None) // a model that may not call them is not told of them
    for (const Tool &tool : input.tools) {
      tools.push_back(tool.json);
      bytes += tool.json.size();
    }
  MOE_CHECK(limitBytes(model, bytes));
  if (!tools.empty() && !model.chat->hasTools())
    return Problem::invalid("tools", "the model's chat template has no tools");
  Conversation conversation{input.messages, tools, input.toolsInUserMessage, input.end};
  if (const Status status = model.chat->render(conversation, ids); !status)
    return Problem::invalid("messages", status.error().message);
  return std::nullopt;
}

Check prepareChat(const ServedModel &model, const ChatInput &input, AnswerOptions options,
                  const char *maxField, Request request, Task &task) {
  MOE_CHECK(render(model, input, request.prompt));
  MOE_CHECK(limitTokens(model, options.maxTokens, maxField, request));
  if (input.choice == ToolChoice::Required) {
    if (options.grammar)
      return Problem::invalid("tool_choice", "tool_choice: a call is required, but " +
                                                 options.grammarField +
                                                 " constrains the answer already");
    options.grammar = callsOf(input);
    options.grammarField = "tools";
  }
  const bool strict = std::any_of(input.tools.begin(), input.tools.end(),
                                  [](const Tool &tool) { return tool.strict; });
  if (input.choice == ToolChoice::Auto && strict && !options.grammar && model.grammars &&
      model.chat->asksForJson()) {
    options.grammar = callsOf(input);
    options.grammarField = "tools";
  }
  if (input.choice != ToolChoice::None && !input.tools.empty()) {
    for (const Tool &tool : input.tools)
      if (input.named.empty() || tool.name == input.named)
        task.functions.push_back(tool.name);
    task.several = input.several;
    // The markers of a call, which the scanner takes out again.
    for (const char *marker : {"<|python_start|>", "<|python_end|>"})
      if (const int32_t id = model.tokenizer->special(marker); id >= 0)
        request.shown.push_back(id);
  }
  task.stream = options.stream;
  task.cacheSalt = std::move(options.cacheSalt);
  task.grammar = std::move(options.grammar);
  task.grammarField = std::move(options.grammarField);
  task.requests.push_back(std::move(request));
  return std::nullopt;
}

} // namespace moe::server::api
