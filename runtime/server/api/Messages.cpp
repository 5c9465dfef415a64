// /v1/messages and /v1/messages/count_tokens: Anthropic's API, as what it asks.
#include "runtime/server/api/Conversation.h"
#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/JsonText.h"
#include "runtime/server/api/MessagesForm.h"

#include <algorithm>

namespace moe::server::api {
namespace {

constexpr const char *kTextParts[] = {"text"};

// A part of a message. Results of calls are messages of their own, before the user's text.
Check readPart(const Json &part, const std::string &where, Message &message,
               std::vector<Message> &results) {
  std::string type, name;
  const Json *input = nullptr, *content = nullptr;
  const Field fields[] = {
      {"type", &type}, {"name", &name}, {"input", &input}, {"content", &content}};
  MOE_CHECK(readFields(part, fields, where));
  if (type == "tool_use" && message.role == Role::Assistant) {
    MOE_CHECK(checkToolName(name, pathOf(where, "name")));
    if (input && !input->object())
      return Problem::invalid(pathOf(where, "input"), std::string("input: found ") + input->kind() +
                                                          ", expected an object");
    message.calls.push_back({name, input ? jsonText(*input) : "{}"});
    return std::nullopt;
  }
  if (type == "tool_result" && message.role == Role::User) {
    Message &result = results.emplace_back(Message{Role::Tool, {}});
    if (content)
      MOE_CHECK(readText(*content, kTextParts, pathOf(where, "content"), result.text));
    return std::nullopt;
  }
  if (type == "thinking" || type == "redacted_thinking") // of another model
    return std::nullopt;
  return readTextPart(part, kTextParts, where, message.text);
}

Check readMessage(const Json &json, const std::string &where, std::vector<Message> &messages) {
  constexpr const char *kRoles[] = {"user", "assistant"};
  const Json *content = nullptr;
  const Field field{"content", &content};
  MOE_CHECK(readFields(json, {&field, 1}, where));
  if (!json.find("role"))
    return Problem::invalid(pathOf(where, "role"), where + " has no role");
  size_t role = 0;
  MOE_CHECK(readName(json, "role", kRoles, role, where));
  if (!content)
    return Problem::invalid(pathOf(where, "content"), where + " has no content");
  Message message{role == 0 ? Role::User : Role::Assistant, {}};
  std::vector<Message> results;
  const std::string inside = pathOf(where, "content");
  if (!content->array())
    MOE_CHECK(readText(*content, kTextParts, inside, message.text));
  else
    for (size_t i = 0; i < content->array()->size(); ++i)
      MOE_CHECK(readPart((*content->array())[i], pathOf(inside, i), message, results));
  const bool resultsAlone = !results.empty() && message.text.empty();
  std::move(results.begin(), results.end(), std::back_inserter(messages));
  if (!resultsAlone)
    messages.push_back(std::move(message));
  return std::nullopt;
}

Check readTool(const Json &json, const std::string &where, ChatInput &input) {
  std::string type = "custom", description;
  const Json *schema = nullptr;
  Tool tool;
  const Field fields[] = {{"type", &type},
                          {"name", &tool.name},
                          {"description", &description},
                          {"input_schema", &schema},
                          {"strict", &tool.strict}};
  MOE_CHECK(readFields(json, fields, where));
  if (type != "custom")
    return Problem::invalid(pathOf(where, "type"), "tools of type '" + type.substr(0, 64) +
                                                       "' are not supported; expected 'custom'");
  MOE_CHECK(checkToolName(tool.name, pathOf(where, "name")));
  if (schema && !schema->object())
    return Problem::invalid(pathOf(where, "input_schema"), std::string("input_schema: found ") +
                                                               schema->kind() +
                                                               ", expected a schema");
  tool.parameters = schema ? jsonText(*schema) : "";
  tool.json = toolJson(tool, description);
  input.tools.push_back(std::move(tool));
  return std::nullopt;
}

Check readToolChoice(const Json &choice, ChatInput &input) {
  constexpr const char *kTypes[] = {"auto", "any", "tool", "none"};
  size_t type = 0;
  bool single = false;
  const Field fields[] = {{"name", &input.named}, {"disable_parallel_tool_use", &single}};
  MOE_CHECK(readFields(choice, fields, "tool_choice"));
  MOE_CHECK(readName(choice, "type", kTypes, type, "tool_choice"));
  input.several = !single;
  if (type != 2)
    input.named.clear();
  if (type == 3)
    input.choice = ToolChoice::None;
  else if (type != 0)
    input.choice = ToolChoice::Required;
  return checkToolChoice(input, type == 2, "tool_choice.name");
}

Check readConversation(const Json &body, ChatInput &input) {
  const JsonArray *messages = nullptr, *tools = nullptr;
  const Json *system = nullptr, *choice = nullptr;
  const Field fields[] = {{"messages", &messages, 1, double(kMaxMessages)},
                          {"tools", &tools, 0, double(kMaxTools)},
                          {"system", &system},
                          {"tool_choice", &choice}};
  MOE_CHECK(readFields(body, fields));
  if (!messages)
    return Problem::invalid("messages", "the request has no messages");
  if (system) {
    std::string text;
    MOE_CHECK(readText(*system, kTextParts, "system", text));
    if (!text.empty())
      input.messages.push_back({Role::System, std::move(text)});
  }
  for (size_t i = 0; i < messages->size(); ++i)
    MOE_CHECK(readMessage((*messages)[i], pathOf("messages", i), input.messages));
  if (tools)
    for (size_t i = 0; i < tools->size(); ++i)
      MOE_CHECK(readTool((*tools)[i], pathOf("tools", i), input));
  if (choice)
    MOE_CHECK(readToolChoice(*choice, input));
  // An answer that the client has begun.
  const Message &last = input.messages.back();
  if (last.role == Role::Assistant && last.calls.empty())
    input.end = Conversation::End::Continue;
  return std::nullopt;
}

} // namespace

Outcome messages(const Json &body, const Models &models) {
  std::shared_ptr<const ServedModel> model;
  MOE_CHECK(findModel(body, models, model));
  ChatInput input;
  MOE_CHECK(readConversation(body, input));
  Request request;
  request.sampling = defaultSampling(*model);
  AnswerOptions options;
  int64_t topK = request.sampling.topK;
  const Field fields[] = {{"max_tokens", &options.maxTokens, 1},
                          {"temperature", &request.sampling.temperature, 0, 2},
                          {"top_p", &request.sampling.topP, 0, 1},
                          {"top_k", &topK, 0, INT32_MAX},
                          {"stream", &options.stream},
                          {"cache_salt", &options.cacheSalt, 0, 1024}};
  MOE_CHECK(readFields(body, fields));
  if (!options.maxTokens)
    return Problem::invalid("max_tokens", "the request has no max_tokens");
  request.sampling.topK = int32_t(topK);
  request.sampling.topP = std::max(request.sampling.topP, 1e-9);
  MOE_CHECK(readStop(body, "stop_sequences", request.stopStrings));
  addStopTokens(*model, request);
  Task task;
  MOE_CHECK(prepareChat(*model, input, std::move(options), "max_tokens", std::move(request), task));
  task.form = makeMessagesForm(*model);
  task.model = std::move(model);
  return task;
}

Outcome countTokens(const Json &body, const Models &models) {
  std::shared_ptr<const ServedModel> model;
  MOE_CHECK(findModel(body, models, model));
  ChatInput input;
  std::vector<int32_t> ids;
  MOE_CHECK(readConversation(body, input));
  MOE_CHECK(render(*model, input, ids));
  std::string out;
  JsonWriter(out).beginObject().member("input_tokens", ids.size()).endObject();
  return out;
}

} // namespace moe::server::api
