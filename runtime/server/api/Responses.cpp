// /v1/responses: what it asks. Nothing is stored between requests.
#include "runtime/server/api/Conversation.h"
#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/JsonText.h"
#include "runtime/server/api/MessagesForm.h"

#include <algorithm>

namespace moe::server::api {
namespace {

constexpr const char *kTextParts[] = {"input_text", "output_text", "text", "refusal"};

Check readItem(const Json &item, const std::string &where, std::vector<Message> &messages) {
  constexpr const char *kRoles[] = {"user", "assistant", "system", "developer"};
  constexpr Role kMeanings[] = {Role::User, Role::Assistant, Role::System, Role::System};
  std::string type = "message", name, arguments;
  const Json *content = nullptr, *output = nullptr;
  const Field fields[] = {{"type", &type},
                          {"name", &name},
                          {"arguments", &arguments},
                          {"content", &content},
                          {"output", &output}};
  MOE_CHECK(readFields(item, fields, where));
  if (type == "reasoning") // of another model
    return std::nullopt;
  if (type == "function_call") {
    MOE_CHECK(checkToolName(name, pathOf(where, "name")));
    if (messages.empty() || messages.back().role != Role::Assistant)
      messages.push_back({Role::Assistant, {}});
    messages.back().calls.push_back({name, arguments.empty() ? "{}" : arguments});
    return std::nullopt;
  }
  if (type == "function_call_output") {
    if (!output)
      return Problem::invalid(pathOf(where, "output"), where + " has no output");
    Message &message = messages.emplace_back(Message{Role::Tool, {}});
    return readText(*output, kTextParts, pathOf(where, "output"), message.text);
  }
  if (type != "message")
    return Problem::invalid(pathOf(where, "type"),
                            "items of type '" + type.substr(0, 64) + "' are not supported");
  if (!item.find("role"))
    return Problem::invalid(pathOf(where, "role"), where + " has no role");
  size_t role = 0;
  MOE_CHECK(readName(item, "role", kRoles, role, where));
  if (!content)
    return Problem::invalid(pathOf(where, "content"), where + " has no content");
  Message &message = messages.emplace_back(Message{kMeanings[role], {}});
  return readText(*content, kTextParts, pathOf(where, "content"), message.text);
}

Check readTool(const Json &json, const std::string &where, ChatInput &input) {
  std::string type, description;
  const Json *parameters = nullptr;
  Tool tool;
  const Field fields[] = {{"type", &type},
                          {"name", &tool.name},
                          {"description", &description},
                          {"parameters", &parameters},
                          {"strict", &tool.strict}};
  MOE_CHECK(readFields(json, fields, where));
  if (type != "function")
    return Problem::invalid(pathOf(where, "type"), "tools of type '" + type.substr(0, 64) +
                                                       "' are not supported; expected 'function'");
  MOE_CHECK(checkToolName(tool.name, pathOf(where, "name")));
  if (parameters && !parameters->object())
    return Problem::invalid(pathOf(where, "parameters"), std::string("parameters: found ") +
                                                             parameters->kind() +
                                                             ", expected a schema");
  tool.parameters = parameters ? jsonText(*parameters) : "";
  tool.json = toolJson(tool, description);
  input.tools.push_back(std::move(tool));
  return std::nullopt;
}

Check readToolChoice(const Json &choice, ChatInput &input) {
  constexpr const char *kTypes[] = {"function"};
  if (const std::string *word = choice.string())
    return readToolChoice(*word, input);
  size_t type = 0;
  const Field field{"name", &input.named};
  MOE_CHECK(readFields(choice, {&field, 1}, "tool_choice"));
  MOE_CHECK(readName(choice, "type", kTypes, type, "tool_choice"));
  input.choice = ToolChoice::Required;
  return checkToolChoice(input, true, "tool_choice.name");
}

Check readConversation(const Json &body, ChatInput &input) {
  const Json *items = nullptr, *choice = nullptr;
  const JsonArray *tools = nullptr;
  std::string instructions;
  const Field fields[] = {{"input", &items},
                          {"instructions", &instructions},
                          {"tools", &tools, 0, double(kMaxTools)},
                          {"tool_choice", &choice},
                          {"parallel_tool_calls", &input.several}};
  MOE_CHECK(readFields(body, fields));
  if (!instructions.empty())
    input.messages.push_back({Role::System, instructions});
  if (!items)
    return Problem::invalid("input", "the request has no input");
  if (const std::string *text = items->string()) {
    input.messages.push_back({Role::User, *text});
  } else {
    const JsonArray *array = items->array();
    if (!array || array->empty() || array->size() > kMaxMessages)
      return Problem::invalid("input", "input: expected a string or an array of 1 to " +
                                           std::to_string(kMaxMessages) + " items");
    for (size_t i = 0; i < array->size(); ++i)
      MOE_CHECK(readItem((*array)[i], pathOf("input", i), input.messages));
  }
  if (input.messages.empty())
    return Problem::invalid("input", "input has no message");
  if (tools)
    for (size_t i = 0; i < tools->size(); ++i)
      MOE_CHECK(readTool((*tools)[i], pathOf("tools", i), input));
  return choice ? readToolChoice(*choice, input) : std::nullopt;
}

} // namespace

Outcome responses(const Json &body, const Models &models) {
  std::shared_ptr<const ServedModel> model;
  MOE_CHECK(findModel(body, models, model));
  for (const char *name : {"previous_response_id", "conversation", "prompt"})
    if (body.find(name))
      return Problem::invalid(name, std::string(name) +
                                        " is not supported: nothing is stored here; "
                                        "send the whole conversation as input");
  ChatInput input;
  MOE_CHECK(readConversation(body, input));
  Request request;
  request.sampling = defaultSampling(*model);
  AnswerOptions options;
  bool store = false, background = false;
  std::optional<int64_t> likely;
  const Json *text = nullptr, *metadata = nullptr;
  const Field fields[] = {{"max_output_tokens", &options.maxTokens, 1},
                          {"temperature", &request.sampling.temperature, 0, 2},
                          {"top_p", &request.sampling.topP, 0, 1},
                          {"top_logprobs", &likely, 0, double(kMaxLikely)},
                          {"stream", &options.stream},
                          {"store", &store},
                          {"background", &background},
                          {"text", &text},
                          {"metadata", &metadata},
                          {"cache_salt", &options.cacheSalt, 0, 1024}};
  MOE_CHECK(readFields(body, fields));
  if (store)
    return Problem::invalid("store", "store: found true, but nothing is stored here");
  if (background)
    return Problem::invalid("background", "background: found true, but nothing is stored here");
  request.sampling.topP = std::max(request.sampling.topP, 1e-9);
  if (likely)
    request.logprobs = int32_t(*likely);
  if (text) {
    const Json *format = nullptr;
    const Field field{"format", &format};
    MOE_CHECK(readFields(*text, {&field, 1}, "text"));
    if (format)
      MOE_CHECK(readFormat(*format, "text.format", nullptr, options));
  }
  addStopTokens(*model, request);

  std::string echoed;
  JsonWriter json(echoed);
  const auto echo = [&](const char *name, const char *otherwise) {
    const Json *member = body.find(name);
    json.key(name).raw(member ? jsonText(*member) : otherwise);
  };
  echo("instructions", "null");
  echo("max_output_tokens", "null");
  echo("metadata", "{}");
  echo("parallel_tool_calls", "true");
  echo("text", R"({"format":{"type":"text"}})");
  echo("tool_choice", R"("auto")");
  echo("tools", "[]");
  echo("truncation", R"("disabled")");
  json.member("temperature", request.sampling.temperature);
  json.member("top_p", request.sampling.topP);

  Task task;
  MOE_CHECK(prepareChat(*model, input, std::move(options), "max_output_tokens", std::move(request),
                        task));
  task.form = makeResponsesForm(model, std::move(echoed), likely.has_value());
  task.model = std::move(model);
  return task;
}

} // namespace moe::server::api
