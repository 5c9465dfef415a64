// /v1/chat/completions: what it asks.
#include "runtime/server/api/ChatForm.h"
#include "runtime/server/api/Conversation.h"
#include "runtime/server/api/Endpoints.h"

#include <algorithm>
#include <array>

namespace moe::server::api {
namespace {

constexpr const char *kTextParts[] = {"text", "refusal"};

// Earlier calls of the assistant.
Check readCalls(const JsonArray &calls, const std::string &where, std::vector<ToolCall> &out) {
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string path = pathOf(where, i);
    const Json *function = nullptr, *arguments = nullptr;
    const Field outer{"function", &function};
    MOE_CHECK(readFields(calls[i], {&outer, 1}, path));
    if (!function)
      return Problem::invalid(pathOf(path, "function"), path + " has no function");
    ToolCall call;
    const Field inner[] = {{"name", &call.name}, {"arguments", &arguments}};
    const std::string inside = pathOf(path, "function");
    MOE_CHECK(readFields(*function, inner, inside));
    MOE_CHECK(checkToolName(call.name, pathOf(inside, "name")));
    call.arguments = "{}";
    if (arguments && arguments->string()) {
      if (!arguments->string()->empty())
        call.arguments = *arguments->string();
    } else if (arguments) {
      call.arguments = jsonText(*arguments);
    }
    out.push_back(std::move(call));
  }
  return std::nullopt;
}

Check readMessage(const Json &json, const std::string &where, Message &message) {
  constexpr const char *kRoles[] = {"system", "developer", "user", "assistant", "tool", "function"};
  constexpr Role kMeanings[] = {Role::System,    Role::System, Role::User,
                                Role::Assistant, Role::Tool,   Role::Tool};
  const Json *content = nullptr;
  const JsonArray *calls = nullptr;
  const Field fields[] = {{"content", &content}, {"tool_calls", &calls, 0, double(kMaxTools)}};
  MOE_CHECK(readFields(json, fields, where));
  if (!json.find("role"))
    return Problem::invalid(pathOf(where, "role"), where + " has no role");
  size_t role = 0;
  MOE_CHECK(readName(json, "role", kRoles, role, where));
  message.role = kMeanings[role];
  if (content)
    MOE_CHECK(readText(*content, kTextParts, pathOf(where, "content"), message.text));
  else if (message.role != Role::Assistant)
    return Problem::invalid(pathOf(where, "content"), where + " has no content");
  if (calls && message.role != Role::Assistant)
    return Problem::invalid(pathOf(where, "tool_calls"),
                            "tool_calls: only the assistant calls tools");
  if (calls)
    MOE_CHECK(readCalls(*calls, pathOf(where, "tool_calls"), message.calls));
  return std::nullopt;
}

Check readTools(const JsonArray &tools, ChatInput &input) {
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string path = pathOf("tools", i), inside = pathOf(path, "function");
    const Json *function = nullptr, *parameters = nullptr;
    std::string type = "function";
    const Field outer[] = {{"type", &type}, {"function", &function}};
    MOE_CHECK(readFields(tools[i], outer, path));
    if (type != "function")
      return Problem::invalid(pathOf(path, "type"), "tools of type '" + type.substr(0, 64) +
                                                        "' are not supported; expected 'function'");
    if (!function)
      return Problem::invalid(inside, path + " has no function");
    Tool tool;
    std::string description;
    const Field inner[] = {{"name", &tool.name},
                           {"description", &description},
                           {"parameters", &parameters},
                           {"strict", &tool.strict}};
    MOE_CHECK(readFields(*function, inner, inside));
    MOE_CHECK(checkToolName(tool.name, pathOf(inside, "name")));
    if (parameters && !parameters->object())
      return Problem::invalid(pathOf(inside, "parameters"), std::string("parameters: found ") +
                                                                parameters->kind() +
                                                                ", expected a schema");
    if (parameters)
      tool.parameters = jsonText(*parameters);
    tool.json = jsonText(tools[i]);
    input.tools.push_back(std::move(tool));
  }
  return std::nullopt;
}

Check readToolChoice(const Json &choice, ChatInput &input) {
  if (const std::string *word = choice.string())
    return readToolChoice(*word, input);
  const Json *function = nullptr;
  std::string type;
  const Field fields[] = {{"type", &type}, {"function", &function}};
  MOE_CHECK(readFields(choice, fields, "tool_choice"));
  if (type != "function" || !function)
    return Problem::invalid("tool_choice", "tool_choice: expected 'auto', 'none', 'required' or "
                                           "{\"type\": \"function\", \"function\": {\"name\": "
                                           "...}}");
  const Field inner{"name", &input.named};
  MOE_CHECK(readFields(*function, {&inner, 1}, "tool_choice.function"));
  input.choice = ToolChoice::Required;
  return checkToolChoice(input, true, "tool_choice");
}

Check readTemplateOptions(const Json &body, ChatInput &input) {
  for (const char *name : {"chat_template", "functions", "function_call"})
    if (body.find(name))
      return Problem::invalid(name, std::string(name) + " is not supported" +
                                        (name[0] == 'f' ? ": use tools and tool_choice" : ""));
  if (const Json *kwargs = body.find("chat_template_kwargs")) {
    const Field field{"tools_in_user_message", &input.toolsInUserMessage};
    MOE_CHECK(readFields(*kwargs, {&field, 1}, "chat_template_kwargs"));
    for (const auto &[name, value] : *kwargs->object())
      if (name != field.name)
        return Problem::invalid("chat_template_kwargs",
                                "chat_template_kwargs: '" + name.substr(0, 64) +
                                    "' is not supported; expected tools_in_user_message");
  }
  bool answer = true, continues = false;
  const Field fields[] = {{"add_generation_prompt", &answer},
                          {"continue_final_message", &continues}};
  MOE_CHECK(readFields(body, fields));
  if (continues && body.find("add_generation_prompt") && answer)
    return Problem::invalid("continue_final_message",
                            "continue_final_message needs add_generation_prompt to be false");
  if (continues && input.messages.back().role != Role::Assistant)
    return Problem::invalid("continue_final_message",
                            "continue_final_message: the last message is not the assistant's");
  input.end = continues ? Conversation::End::Continue
              : answer  ? Conversation::End::Answer
                        : Conversation::End::Open;
  return std::nullopt;
}

} // namespace

Check readChat(const Json &body, ChatInput &input) {
  const JsonArray *messages = nullptr, *tools = nullptr;
  const Json *choice = nullptr;
  const Field fields[] = {{"messages", &messages, 1, double(kMaxMessages)},
                          {"tools", &tools, 0, double(kMaxTools)},
                          {"tool_choice", &choice},
                          {"parallel_tool_calls", &input.several}};
  MOE_CHECK(readFields(body, fields));
  if (!messages)
    return Problem::invalid("messages", "the request has no messages");
  for (size_t i = 0; i < messages->size(); ++i)
    MOE_CHECK(readMessage((*messages)[i], pathOf("messages", i),
                          input.messages.emplace_back(Message{Role::User, {}})));
  if (tools)
    MOE_CHECK(readTools(*tools, input));
  if (choice)
    MOE_CHECK(readToolChoice(*choice, input));
  return readTemplateOptions(body, input);
}

Outcome chatCompletions(const Json &body, const Models &models) {
  std::shared_ptr<const ServedModel> model;
  MOE_CHECK(findModel(body, models, model));
  ChatInput input;
  Request request;
  AnswerOptions options;
  MOE_CHECK(readChat(body, input));
  MOE_CHECK(readSampling(body, *model, request, options));
  bool logprobs = false;
  int64_t likely = 0;
  std::optional<int64_t> newMax, oldMax;
  const Field fields[] = {{"logprobs", &logprobs},
                          {"top_logprobs", &likely, 0, kMaxLikely},
                          {"max_completion_tokens", &newMax, 1},
                          {"max_tokens", &oldMax, 1}};
  MOE_CHECK(readFields(body, fields));
  if (likely > 0 && !logprobs)
    return Problem::invalid("top_logprobs", "top_logprobs needs logprobs to be true");
  if (logprobs)
    request.logprobs = int32_t(likely);
  options.maxTokens = newMax ? newMax : oldMax;
  if (!options.ignoreEos)
    addStopTokens(*model, request);
  ChatFormOptions form;
  form.logprobs = logprobs;
  form.promptLogprobs = request.promptLogprobs.has_value();
  form.includeUsage = options.includeUsage;
  form.continuousUsage = options.continuousUsage;
  form.tools = input.choice != ToolChoice::None && !input.tools.empty();
  Task task;
  MOE_CHECK(prepareChat(*model, input, std::move(options),
                        newMax || !oldMax ? "max_completion_tokens" : "max_tokens",
                        std::move(request), task));
  task.form = makeChatForm(model, form);
  task.model = std::move(model);
  return task;
}

} // namespace moe::server::api
