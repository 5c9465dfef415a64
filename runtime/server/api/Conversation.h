// A conversation with tools, as any of the APIs asks for it, and the task that it becomes.
#ifndef MOE_RUNTIME_SERVER_API_CONVERSATION_H
#define MOE_RUNTIME_SERVER_API_CONVERSATION_H

#include "runtime/server/api/Answer.h"
#include "runtime/server/api/Sampling.h"

namespace moe::server::api {

inline constexpr size_t kMaxMessages = 4096, kMaxTools = 128;

struct Tool {
  std::string name;
  std::string json;       // {"type": "function", "function": {...}}, as the template lays it out
  std::string parameters; // the schema of its arguments; empty: any object
  bool strict = false;
};

enum class ToolChoice { Auto, None, Required };

struct ChatInput {
  std::vector<Message> messages;
  std::vector<Tool> tools;
  ToolChoice choice = ToolChoice::Auto;
  std::string named;   // with Required: only this one
  bool several = true; // calls in an answer
  bool toolsInUserMessage = true;
  Conversation::End end = Conversation::End::Answer;
};

// A function's name, as the model has to write it.
Check checkToolName(const std::string &name, const std::string &where);

// Text of a content that is a string or an array of parts, of which those of `types` are text in
// their member `text` and others are refused.
Check readText(const Json &content, std::span<const char *const> types, const std::string &where,
               std::string &text);
Check readTextPart(const Json &part, std::span<const char *const> types, const std::string &where,
                   std::string &text);

// The tool's `json` from its name and parameters, for APIs that have another form of it.
std::string toolJson(const Tool &tool, const std::string &description);
// Whether the choice that was read fits the tools. `byName`: it has to name one.
Check checkToolChoice(const ChatInput &input, bool byName, const std::string &where);

// OpenAI's words for `tool_choice`: auto, none, required.
Check readToolChoice(const std::string &word, ChatInput &input);
// Those that end an answer of the assistant.
void addStopTokens(const ServedModel &model, Request &request);

// The ids of a conversation.
Check render(const ServedModel &model, const ChatInput &input, std::vector<int32_t> &ids);

// Completes what the endpoint has read: renders the prompt and adds what tools ask for. `request`
// has the sampling, `options` the limit and the grammar. `maxField`: what the limit is called.
Check prepareChat(const ServedModel &model, const ChatInput &input, AnswerOptions options,
                  const char *maxField, Request request, Task &task);

// Whether prompt and answer have room. Sets the request's limit.
Check limitTokens(const ServedModel &model, const std::optional<int64_t> &maxTokens,
                  const char *maxField, Request &request);
// Before text is turned into ids: whether so many bytes can have room at all.
Check limitBytes(const ServedModel &model, size_t bytes);

} // namespace moe::server::api

#endif
