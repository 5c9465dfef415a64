// /tokenize, /detokenize and /apply-template, as vLLM and llama-server have them.
#include "runtime/server/api/Conversation.h"
#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/JsonText.h"
#include "runtime/server/api/Prompts.h"
#include "runtime/text/Utf8.h"

namespace moe::server::api {

Outcome tokenize(const Json &body, const Models &models) {
  std::shared_ptr<const ServedModel> model;
  MOE_CHECK(findModel(body, models, model));
  std::vector<int32_t> ids;
  bool strings = false, pieces = false;
  const Field fields[] = {{"return_token_strs", &strings}, {"with_pieces", &pieces}};
  MOE_CHECK(readFields(body, fields));
  if (body.find("messages")) {
    ChatInput input;
    MOE_CHECK(readChat(body, input));
    MOE_CHECK(render(*model, input, ids));
  } else {
    // vLLM adds BOS to a `prompt`, llama-server none to a `content`, unless told otherwise.
    const bool isContent = !body.find("prompt");
    const char *name = isContent ? "content" : "prompt";
    std::string text;
    bool addBos = !isContent;
    const Field prompt[] = {{name, &text},
                            {isContent ? "add_special" : "add_special_tokens", &addBos}};
    if (!body.find(name))
      return Problem::invalid("prompt", "expected a prompt, a content or messages");
    MOE_CHECK(readFields(body, prompt));
    MOE_CHECK(encodeText(*model, name, text, addBos, ids));
  }
  std::string out;
  JsonWriter json(out);
  json.beginObject().member("count", ids.size());
  json.member("max_model_len", model->generator->context()).key("tokens").beginArray();
  for (const int32_t id : ids)
    if (pieces)
      json.beginObject()
          .member("id", id)
          .member("piece", replaceInvalidUtf8(model->tokenizer->bytes(id)))
          .endObject();
    else
      json.value(id);
  json.endArray().key("token_strs");
  if (strings) {
    json.beginArray();
    for (const int32_t id : ids)
      json.value(replaceInvalidUtf8(model->tokenizer->bytes(id)));
    json.endArray();
  } else {
    json.value(nullptr);
  }
  json.endObject();
  return out;
}

Outcome detokenize(const Json &body, const Models &models) {
  std::shared_ptr<const ServedModel> model;
  MOE_CHECK(findModel(body, models, model));
  const JsonArray *tokens = nullptr;
  const Field field{"tokens", &tokens};
  MOE_CHECK(readFields(body, {&field, 1}));
  if (!tokens)
    return Problem::invalid("tokens", "expected an array of tokens");
  if (!model->tokenizer)
    return Problem::invalid("tokens", "the model has no tokenizer");
  std::vector<int32_t> ids;
  MOE_CHECK(readIds(*tokens, model->generator->vocab(), "tokens", ids));
  const std::string text = replaceInvalidUtf8(model->tokenizer->decode(ids, /*skipSpecial=*/false));
  std::string out;
  JsonWriter(out).beginObject().member("prompt", text).member("content", text).endObject();
  return out;
}

Outcome applyTemplate(const Json &body, const Models &models) {
  std::shared_ptr<const ServedModel> model;
  MOE_CHECK(findModel(body, models, model));
  ChatInput input;
  std::vector<int32_t> ids;
  MOE_CHECK(readChat(body, input));
  MOE_CHECK(render(*model, input, ids));
  std::string out;
  JsonWriter(out)
      .beginObject()
      .member("prompt", replaceInvalidUtf8(model->tokenizer->decode(ids, /*skipSpecial=*/false)))
      .endObject();
  return out;
}

} // namespace moe::server::api
