#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/MessagesForm.h"
#include "runtime/server/api/Words.h"

namespace moe::server::api {
namespace {

class ResponsesForm : public Form {
public:
  ResponsesForm(std::shared_ptr<const ServedModel> model, std::string echoed, bool logprobs)
      : model(std::move(model)), echoed(std::move(echoed)), logprobs(logprobs),
        head("resp_", *this->model) {}

  void begin(std::string &out, const Totals &totals) override {
    for (const char *type : {"response.created", "response.in_progress"})
      event(out, type, [&](JsonWriter &json) { writeResponse(json, "in_progress", totals); });
  }

  void update(std::string &out, const Update &update, const Totals &totals) override {
    if (logprobs)
      held.insert(held.end(), update.tokens.begin(), update.tokens.end());
    for (const ToolCallEvent &part : update.parts)
      part.kind == ToolCallEvent::Kind::Content ? addText(out, part.text) : addCall(out, part);
    if (!update.finish)
      return;
    if (inText)
      endText(out, update.finish == Finish::Length);
    const bool cut = update.finish == Finish::Length;
    event(out, cut ? "response.incomplete" : "response.completed",
          [&](JsonWriter &json) { writeResponse(json, cut ? "incomplete" : "completed", totals); });
  }

  void end(std::string &, const Totals &) override {} // the last event has said it

  void fail(std::string &out, const Problem &problem) override {
    event(out, "error", [&](JsonWriter &json) {
      json.member("code", problem.code.empty() ? "server_error" : problem.code.c_str())
          .member("message", problem.message);
      json.member("param", nullptr);
    });
  }

  void whole(std::string &out, std::span<const Update> choices, const Totals &totals) override {
    const Update &update = choices[0];
    const bool cut = update.finish == Finish::Length;
    if (logprobs)
      all = update.tokens;
    for (const ToolCallEvent &part : update.parts) {
      if (part.kind == ToolCallEvent::Kind::Content) {
        item = randomId("msg_");
        items.push_back(messageItem(part.text, cut ? "incomplete" : "completed"));
        all.clear(); // tokens are the first text's
      } else {
        items.push_back(callItem(randomId("fc_"), randomId("call_"), part, part.text, "completed"));
      }
    }
    JsonWriter json(out);
    writeResponse(json, cut ? "incomplete" : "completed", totals);
  }

private:
  // `write` adds the members after the type and the number.
  template <typename Write> void event(std::string &out, const char *type, const Write &write) {
    std::string data;
    JsonWriter json(data);
    json.beginObject().member("type", type).member("sequence_number", sequence++);
    if (isOfResponse(type))
      json.key("response");
    write(json);
    json.endObject();
    appendNamedEvent(out, type, data);
  }
  static bool isOfResponse(std::string_view type) { // and not of an item
    return type == "response.created" || type == "response.in_progress" ||
           type == "response.completed" || type == "response.incomplete";
  }

  void writeResponse(JsonWriter &json, const char *status, const Totals &totals) const {
    json.beginObject().member("id", head.id).member("object", "response");
    json.member("created_at", head.created).member("status", status);
    json.member("model", head.model).member("error", nullptr).key("incomplete_details");
    if (std::string_view(status) == "incomplete")
      json.beginObject().member("reason", "max_output_tokens").endObject();
    else
      json.value(nullptr);
    json.raw(echoed).member("store", false).member("previous_response_id", nullptr);
    json.key("output").beginArray();
    for (const std::string &each : items)
      json.raw(each);
    json.endArray().key("usage");
    if (std::string_view(status) == "in_progress") {
      json.value(nullptr);
    } else {
      json.beginObject().member("input_tokens", totals.prompt).key("input_tokens_details");
      json.beginObject().member("cached_tokens", totals.cached).endObject();
      json.member("output_tokens", totals.completion).key("output_tokens_details");
      json.beginObject().member("reasoning_tokens", 0).endObject();
      json.member("total_tokens", totals.prompt + totals.completion).endObject();
    }
    json.endObject();
  }

  std::string textPart(std::string_view content, std::span<const TokenEvent> tokens) const {
    std::string out;
    JsonWriter json(out);
    json.beginObject().member("type", "output_text").member("text", content);
    json.key("annotations").beginArray().endArray().key("logprobs");
    writeLogprobs(json, model->tokenizer.get(), tokens);
    json.endObject();
    return out;
  }

  std::string messageItem(std::string_view content, const char *status) const {
    std::string out;
    JsonWriter json(out);
    json.beginObject().member("id", item).member("type", "message").member("status", status);
    json.member("role", "assistant").key("content").beginArray();
    if (std::string_view(status) != "in_progress")
      json.raw(textPart(content, all));
    json.endArray().endObject();
    return out;
  }

  static std::string callItem(const std::string &id, const std::string &callId,
                              const ToolCallEvent &call, std::string_view arguments,
                              const char *status) {
    std::string out;
    JsonWriter json(out);
    json.beginObject().member("id", id).member("type", "function_call").member("status", status);
    json.member("call_id", callId).member("name", call.name).member("arguments", arguments);
    json.endObject();
    return out;
  }

  // Where in the output an event belongs.
  JsonWriter &place(JsonWriter &json) const {
    return json.member("item_id", item).member("output_index", items.size());
  }

  void itemEvent(std::string &out, const char *type, std::string_view text) {
    event(out, type, [&](JsonWriter &json) {
      json.member("output_index", items.size()).key("item").raw(text);
    });
  }

  void addText(std::string &out, std::string_view more) {
    if (!inText) {
      inText = true;
      item = randomId("msg_");
      itemEvent(out, "response.output_item.added", messageItem({}, "in_progress"));
      event(out, "response.content_part.added", [&](JsonWriter &json) {
        place(json).member("content_index", 0).key("part").raw(textPart({}, {}));
      });
    }
    text += more;
    event(out, "response.output_text.delta", [&](JsonWriter &json) {
      place(json).member("content_index", 0).member("delta", more).key("logprobs");
      writeLogprobs(json, model->tokenizer.get(), held);
    });
    all.insert(all.end(), held.begin(), held.end());
    held.clear();
  }

  void endText(std::string &out, bool cut) {
    event(out, "response.output_text.done", [&](JsonWriter &json) {
      place(json).member("content_index", 0).member("text", text).key("logprobs");
      writeLogprobs(json, model->tokenizer.get(), all);
    });
    event(out, "response.content_part.done", [&](JsonWriter &json) {
      place(json).member("content_index", 0).key("part").raw(textPart(text, all));
    });
    const std::string done = messageItem(text, cut ? "incomplete" : "completed");
    itemEvent(out, "response.output_item.done", done);
    items.push_back(done);
    inText = false;
    text.clear();
    all.clear();
  }

  void addCall(std::string &out, const ToolCallEvent &call) {
    if (inText)
      endText(out, false);
    item = randomId("fc_");
    const std::string callId = randomId("call_");
    itemEvent(out, "response.output_item.added", callItem(item, callId, call, {}, "in_progress"));
    event(out, "response.function_call_arguments.delta",
          [&](JsonWriter &json) { place(json).member("delta", call.text); });
    event(out, "response.function_call_arguments.done", [&](JsonWriter &json) {
      place(json).member("name", call.name).member("arguments", call.text);
    });
    const std::string done = callItem(item, callId, call, call.text, "completed");
    itemEvent(out, "response.output_item.done", done);
    items.push_back(done);
    held.clear();
  }

  std::shared_ptr<const ServedModel> model;
  std::string echoed;
  bool logprobs;
  Head head;
  int64_t sequence = 0;
  std::vector<std::string> items; // that are complete, as JSON
  std::string item, text;         // the item that is being said
  bool inText = false;
  std::vector<TokenEvent> held, all; // tokens without text yet, and those of `text`
};

} // namespace

std::unique_ptr<Form> makeResponsesForm(std::shared_ptr<const ServedModel> model,
                                        std::string echoed, bool logprobs) {
  return std::make_unique<ResponsesForm>(std::move(model), std::move(echoed), logprobs);
}

} // namespace moe::server::api
