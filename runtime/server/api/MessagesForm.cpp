#include "runtime/server/api/MessagesForm.h"

#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/JsonText.h"

namespace moe::server::api {
namespace {

const char *stopReason(const Update &update) {
  if (update.finish == Finish::Length)
    return "max_tokens";
  if (update.finish == Finish::StopString)
    return "stop_sequence";
  return update.calls ? "tool_use" : "end_turn";
}

class MessagesForm : public Form {
public:
  explicit MessagesForm(const ServedModel &model) : head("msg_", model) {}
  Dialect dialect() const override { return Dialect::Anthropic; }

  void begin(std::string &out, const Totals &totals) override {
    std::string data;
    JsonWriter json(data);
    json.beginObject().member("type", "message_start").key("message").beginObject();
    writeHead(json);
    json.key("content").beginArray().endArray();
    json.member("stop_reason", nullptr).member("stop_sequence", nullptr);
    writeUsage(json, totals);
    json.endObject().endObject();
    appendNamedEvent(out, "message_start", data);
  }

  void update(std::string &out, const Update &update, const Totals &totals) override {
    for (const ToolCallEvent &part : update.parts)
      part.kind == ToolCallEvent::Kind::Content ? addText(out, part.text) : addCall(out, part);
    if (!update.finish)
      return;
    if (!inText && blocks == 0) // clients expect one
      startBlock(out, "{\"type\":\"text\",\"text\":\"\"}");
    if (inText || blocks == 0)
      stopBlock(out);
    std::string data;
    JsonWriter json(data);
    json.beginObject().member("type", "message_delta").key("delta").beginObject();
    writeStop(json, update);
    json.endObject();
    writeUsage(json, totals);
    json.endObject();
    appendNamedEvent(out, "message_delta", data);
  }

  void end(std::string &out, const Totals &) override {
    appendNamedEvent(out, "message_stop", R"({"type":"message_stop"})");
  }

  void fail(std::string &out, const Problem &problem) override {
    appendNamedEvent(out, "error", errorBody(problem, Dialect::Anthropic));
  }

  void ping(std::string &out) const override {
    appendNamedEvent(out, "ping", R"({"type":"ping"})");
  }

  void whole(std::string &out, std::span<const Update> choices, const Totals &totals) override {
    const Update &update = choices[0];
    JsonWriter json(out);
    json.beginObject();
    writeHead(json);
    json.key("content").beginArray();
    for (const ToolCallEvent &part : update.parts)
      if (part.kind == ToolCallEvent::Kind::Content)
        json.beginObject().member("type", "text").member("text", part.text).endObject();
      else
        json.beginObject()
            .member("type", "tool_use")
            .member("id", randomId("toolu_"))
            .member("name", part.name)
            .key("input")
            .raw(part.text)
            .endObject();
    json.endArray();
    writeStop(json, update);
    writeUsage(json, totals);
    json.endObject();
  }

private:
  void writeHead(JsonWriter &json) const {
    json.member("id", head.id).member("type", "message").member("role", "assistant");
    json.member("model", head.model);
  }

  static void writeStop(JsonWriter &json, const Update &update) {
    json.member("stop_reason", stopReason(update)).key("stop_sequence");
    if (update.finish == Finish::StopString)
      json.value(update.stopString);
    else
      json.value(nullptr);
  }

  // Tokens that the cache gave are not among the input's here.
  static void writeUsage(JsonWriter &json, const Totals &totals) {
    json.key("usage").beginObject().member("input_tokens", totals.prompt - totals.cached);
    json.member("cache_creation_input_tokens", 0).member("cache_read_input_tokens", totals.cached);
    json.member("output_tokens", totals.completion).endObject();
  }

  void startBlock(std::string &out, std::string_view block) const {
    std::string data;
    JsonWriter json(data);
    json.beginObject().member("type", "content_block_start").member("index", blocks);
    json.key("content_block").raw(block).endObject();
    appendNamedEvent(out, "content_block_start", data);
  }

  void delta(std::string &out, const char *type, const char *member, std::string_view text) const {
    std::string data;
    JsonWriter json(data);
    json.beginObject().member("type", "content_block_delta").member("index", blocks).key("delta");
    json.beginObject().member("type", type).member(member, text).endObject().endObject();
    appendNamedEvent(out, "content_block_delta", data);
  }

  void stopBlock(std::string &out) {
    std::string data;
    JsonWriter json(data);
    json.beginObject().member("type", "content_block_stop").member("index", blocks).endObject();
    appendNamedEvent(out, "content_block_stop", data);
    inText = false;
    ++blocks;
  }

  void addText(std::string &out, std::string_view text) {
    if (!inText)
      startBlock(out, "{\"type\":\"text\",\"text\":\"\"}");
    inText = true;
    delta(out, "text_delta", "text", text);
  }

  void addCall(std::string &out, const ToolCallEvent &call) {
    if (inText)
      stopBlock(out);
    std::string block;
    JsonWriter json(block);
    json.beginObject().member("type", "tool_use").member("id", randomId("toolu_"));
    json.member("name", call.name).key("input").beginObject().endObject().endObject();
    startBlock(out, block);
    delta(out, "input_json_delta", "partial_json", call.text);
    stopBlock(out);
  }

  Head head;
  int32_t blocks = 0; // that are complete
  bool inText = false;
};

} // namespace

void appendNamedEvent(std::string &out, std::string_view name, std::string_view data) {
  out += "event: ";
  out += name;
  out += "\ndata: ";
  out += data;
  out += "\n\n";
}

std::unique_ptr<Form> makeMessagesForm(const ServedModel &model) {
  return std::make_unique<MessagesForm>(model);
}

} // namespace moe::server::api
