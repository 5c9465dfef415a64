// /v1/embeddings: the model's hidden states of a text, pooled over its tokens.
#include "runtime/server/api/Conversation.h"
#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/Prompts.h"
#include "runtime/server/api/Words.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace moe::server::api {
namespace {

std::string base64(std::span<const float> values) {
  static_assert(std::endian::native == std::endian::little, "float32 in this order");
  std::string bytes(values.size_bytes(), 0);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = std::min<size_t>(bytes.size() - i, 3);
    uint32_t bits = 0;
    for (size_t j = 0; j < 3; ++j)
      bits = bits << 8 | (j < left ? uint8_t(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j)
      out += j <= left ? kDigits[bits >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

void normalize(std::vector<float> &values) {
  double squares = 0;
  for (const float value : values)
    squares += double(value) * value;
  if (squares > 0)
    for (float &value : values)
      value = float(value / std::sqrt(squares));
}

class EmbeddingsForm : public Form {
public:
  EmbeddingsForm(const ServedModel &model, bool asBase64, bool last, bool normalized)
      : head("embd-", model), asBase64(asBase64), last(last), normalized(normalized) {}

  // The endpoint has no streams.
  void update(std::string &, const Update &, const Totals &) override {}
  void end(std::string &, const Totals &) override {}

  void whole(std::string &out, std::span<const Update> inputs, const Totals &totals) override {
    JsonWriter json(out);
    json.beginObject().member("id", head.id).member("object", "list");
    json.member("created", head.created).member("model", head.model).key("data").beginArray();
    for (const Update &input : inputs) {
      std::vector<float> values;
      if (input.embedding.size() > size_t(last))
        values = input.embedding[size_t(last)];
      if (normalized)
        normalize(values);
      json.beginObject().member("object", "embedding").member("index", input.choice);
      json.key("embedding");
      if (asBase64) {
        json.value(base64(values));
      } else {
        json.beginArray();
        for (const float value : values)
          json.value(double(value));
        json.endArray();
      }
      json.endObject();
    }
    json.endArray().key("usage").beginObject().member("prompt_tokens", totals.prompt);
    json.member("total_tokens", totals.prompt).endObject().endObject();
  }

private:
  Head head;
  bool asBase64, last, normalized;
};

} // namespace

Outcome embeddings(const Json &body, const Models &models) {
  std::shared_ptr<const ServedModel> model;
  MOE_CHECK(findModel(body, models, model));
  constexpr const char *kEncodings[] = {"float", "base64"}, *kPoolings[] = {"mean", "last"};
  size_t encoding = 0, pooling = 0;
  const Json *input = nullptr;
  bool normalized = true;
  std::string cacheSalt;
  const Field fields[] = {
      {"input", &input}, {"normalize", &normalized}, {"cache_salt", &cacheSalt, 0, 1024}};
  MOE_CHECK(readFields(body, fields));
  MOE_CHECK(readName(body, "encoding_format", kEncodings, encoding));
  MOE_CHECK(readName(body, "pooling", kPoolings, pooling));
  if (body.find("dimensions"))
    return Problem::invalid("dimensions", "dimensions is not supported: hidden states have the "
                                          "model's own size");
  if (!input)
    return Problem::invalid("input", "the request has no input");
  std::vector<Prompt> prompts;
  MOE_CHECK(readPrompts(*input, "input", *model, prompts));
  Task task;
  for (Prompt &prompt : prompts) {
    Request request;
    request.prompt = std::move(prompt.ids);
    request.embed = true;
    MOE_CHECK(limitTokens(*model, 0, "input", request));
    task.requests.push_back(std::move(request));
  }
  task.cacheSalt = std::move(cacheSalt);
  task.form = std::make_unique<EmbeddingsForm>(*model, encoding == 1, pooling == 1, normalized);
  task.model = std::move(model);
  return task;
}

} // namespace moe::server::api
