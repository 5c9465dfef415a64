#include "runtime/server/api/ChatForm.h"

#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/Words.h"

#include <algorithm>

namespace moe::server::api {
namespace {

class ChatForm : public Form {
public:
  ChatForm(std::shared_ptr<const ServedModel> model, const ChatFormOptions &options)
      : model(std::move(model)), options(options), head("chatcmpl-", *this->model) {
    start = "data: ";
    writeHead(start, "chat.completion.chunk");
    start += ",\"choices\":[";
  }

  void update(std::string &out, const Update &update, const Totals &totals) override;
  void end(std::string &out, const Totals &totals) override;
  void whole(std::string &out, std::span<const Update> choices, const Totals &totals) override;

private:
  struct Choice {
    std::vector<TokenEvent> held; // tokens of text that is not certain yet
    int32_t calls = 0;
  };

  void writeHead(std::string &out, const char *object) const;
  // A chunk with one choice; `delta` is what is between the braces.
  void chunk(std::string &out, Choice &choice, const Update &update, std::string_view delta,
             bool last, const Totals &totals);

  std::shared_ptr<const ServedModel> model;
  ChatFormOptions options;
  Head head;
  std::string start; // of every chunk
  std::vector<Choice> choices;
};

void ChatForm::writeHead(std::string &out, const char *object) const {
  JsonWriter json(out);
  json.beginObject().member("id", head.id).member("object", object);
  json.member("created", head.created).member("model", head.model);
  json.member("system_fingerprint", head.fingerprint);
}

void ChatForm::chunk(std::string &out, Choice &choice, const Update &update, std::string_view delta,
                     bool last, const Totals &totals) {
  out += start;
  out += "{\"index\":";
  out += std::to_string(update.choice);
  out += ",\"delta\":{";
  out += delta;
  out += "},\"logprobs\":";
  if (options.logprobs && !choice.held.empty()) {
    out += "{\"content\":";
    JsonWriter json(out);
    writeLogprobs(json, model->tokenizer.get(), choice.held);
    out += ",\"refusal\":null}";
    choice.held.clear();
  } else {
    out += "null";
  }
  out += ",\"finish_reason\":";
  if (last) {
    out += '"';
    out += finishReason(update);
    out += "\",\"stop_reason\":";
    JsonWriter json(out);
    writeStopReason(json, update);
  } else {
    out += "null";
  }
  out += "}]";
  endChunk(out, options.includeUsage, options.continuousUsage, totals);
}

// The first chunk of a choice has the role and goes out with the first token, which clients take
// the time of. What has no text yet is no chunk otherwise.
void ChatForm::update(std::string &out, const Update &update, const Totals &totals) {
  choices.resize(std::max(choices.size(), size_t(update.choice) + 1));
  Choice &choice = choices[size_t(update.choice)];
  if (options.logprobs)
    choice.held.insert(choice.held.end(), update.tokens.begin(), update.tokens.end());
  std::string delta;
  if (update.first)
    delta = "\"role\":\"assistant\"";
  const bool textFirst =
      !update.parts.empty() && update.parts[0].kind == ToolCallEvent::Kind::Content;
  if (update.first && !textFirst)
    delta += options.tools ? ",\"content\":null" : ",\"content\":\"\"";
  for (const ToolCallEvent &part : update.parts) {
    if (part.kind == ToolCallEvent::Kind::Content) {
      delta += delta.empty() ? "\"content\":\"" : ",\"content\":\"";
      appendEscaped(delta, part.text);
      delta += '"';
      chunk(out, choice, update, delta, false, totals);
      delta.clear();
      continue;
    }
    const auto write = [&](bool first) {
      if (!delta.empty())
        delta += ',';
      JsonWriter json(delta);
      json.key("tool_calls").beginArray().beginObject().member("index", choice.calls);
      if (first)
        json.member("id", randomId("call_")).member("type", "function");
      json.key("function").beginObject();
      if (first)
        json.member("name", part.name);
      json.member("arguments", first ? std::string_view() : std::string_view(part.text));
      json.endObject().endObject().endArray();
      chunk(out, choice, update, delta, false, totals);
      delta.clear();
    };
    write(true);
    write(false);
    ++choice.calls;
  }
  if (!delta.empty())
    chunk(out, choice, update, delta, false, totals);
  if (update.finish)
    chunk(out, choice, update, {}, true, totals);
}

void ChatForm::end(std::string &out, const Totals &totals) {
  if (options.includeUsage) {
    out += start;
    out += "],\"usage\":";
    JsonWriter json(out);
    writeUsage(json, totals);
    out += "}\n\n";
  }
  out += "data: [DONE]\n\n";
}

void ChatForm::whole(std::string &out, std::span<const Update> updates, const Totals &totals) {
  writeHead(out, "chat.completion");
  out += ",\"choices\":";
  JsonWriter json(out);
  json.beginArray();
  for (const Update &update : updates) {
    std::string content;
    for (const ToolCallEvent &part : update.parts)
      if (part.kind == ToolCallEvent::Kind::Content)
        content += part.text;
    json.beginObject().member("index", update.choice).key("message").beginObject();
    json.member("role", "assistant").key("content");
    update.calls &&content.empty() ? json.value(nullptr) : json.value(content);
    json.member("refusal", nullptr);
    if (update.calls) {
      json.key("tool_calls").beginArray();
      for (const ToolCallEvent &part : update.parts)
        if (part.kind == ToolCallEvent::Kind::Call) {
          json.beginObject().member("id", randomId("call_")).member("type", "function");
          json.key("function").beginObject().member("name", part.name);
          json.member("arguments", part.text).endObject().endObject();
        }
      json.endArray();
    }
    json.endObject().key("logprobs");
    if (options.logprobs) {
      json.beginObject().key("content");
      writeLogprobs(json, model->tokenizer.get(), update.tokens);
      json.member("refusal", nullptr).endObject();
    } else {
      json.value(nullptr);
    }
    json.member("finish_reason", finishReason(update)).key("stop_reason");
    writeStopReason(json, update);
    json.endObject();
  }
  json.endArray();
  out += ",\"usage\":";
  JsonWriter usage(out);
  writeUsage(usage, totals);
  if (options.promptLogprobs) {
    out += ",\"prompt_logprobs\":";
    JsonWriter prompt(out);
    writePromptLogprobs(prompt, model->tokenizer.get(), updates[0].prompt);
  }
  out += '}';
}

} // namespace

std::unique_ptr<Form> makeChatForm(std::shared_ptr<const ServedModel> model,
                                   const ChatFormOptions &options) {
  return std::make_unique<ChatForm>(std::move(model), options);
}

} // namespace moe::server::api
