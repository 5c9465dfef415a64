#include "runtime/server/api/ChatForm.h"
#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/Words.h"
#include "runtime/text/Detokenizer.h"

#include <algorithm>

namespace moe::server::api {
namespace {

int64_t characters(std::string_view text) { // of UTF-8
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

// The four lists of OpenAI's older form, and where in the answer's text its tokens are.
class TokenLists {
public:
  explicit TokenLists(const Tokenizer *tokenizer) : tokenizer(tokenizer) {}

  void addPrompt(std::span<const TokenEvent> tokens) {
    if (!tokenizer)
      return;
    Detokenizer text(*tokenizer);
    for (const TokenEvent &token : tokens) {
      add(token);
      offset += characters(text.push(token.token));
    }
  }

  void addAnswer(std::span<const TokenEvent> tokens, std::string_view text) {
    for (const TokenEvent &token : tokens) {
      add(token);
      const auto its = text.substr(0, token.textBytes);
      offset += characters(its);
      text.remove_prefix(its.size());
    }
    offset += characters(text); // which came with the end
  }

  // Writes what was added since the last call.
  void write(JsonWriter &json) {
    json.beginObject().key("tokens").beginArray();
    for (const auto &[token, at] : added)
      json.value(tokenText(tokenizer, token.token));
    json.endArray().key("token_logprobs").beginArray();
    for (const auto &[token, at] : added)
      token.logprob ? json.value(finite(*token.logprob)) : json.value(nullptr);
    json.endArray().key("top_logprobs").beginArray();
    for (const auto &[token, at] : added)
      writeLikely(json, token);
    json.endArray().key("text_offset").beginArray();
    for (const auto &[token, at] : added)
      json.value(at);
    json.endArray().endObject();
    added.clear();
  }

private:
  void add(const TokenEvent &token) { added.emplace_back(token, offset); }

  void writeLikely(JsonWriter &json, const TokenEvent &token) const {
    if (!token.logprob)
      return void(json.value(nullptr));
    // Texts are keys, and tokens may have the same: the more likely one counts.
    std::vector<std::string> texts;
    json.beginObject();
    const auto write = [&](int32_t id, double logprob) {
      std::string text = tokenText(tokenizer, id);
      if (std::find(texts.begin(), texts.end(), text) != texts.end())
        return;
      json.member(text, finite(logprob));
      texts.push_back(std::move(text));
    };
    for (const TokenLogprob &likely : token.likely)
      write(likely.token, likely.logprob);
    write(token.token, *token.logprob);
    json.endObject();
  }

  const Tokenizer *tokenizer;
  std::vector<std::pair<TokenEvent, int64_t>> added;
  int64_t offset = 0; // characters
};

class CompletionsForm : public Form {
public:
  CompletionsForm(std::shared_ptr<const ServedModel> model, CompletionsFormOptions options)
      : model(std::move(model)), options(std::move(options)), head("cmpl-", *this->model) {}

  void update(std::string &out, const Update &update, const Totals &totals) override;
  void end(std::string &out, const Totals &totals) override;
  void whole(std::string &out, std::span<const Update> choices, const Totals &totals) override;

private:
  void writeHead(std::string &out) const;
  std::string textOf(const Update &update) const;
  void writeChoice(std::string &out, const Update &update, std::string_view text,
                   TokenLists &lists) const;
  void addTokens(TokenLists &lists, const Update &update, std::string_view text) const;

  std::shared_ptr<const ServedModel> model;
  CompletionsFormOptions options;
  Head head;
  std::vector<TokenLists> lists; // of each choice of a stream
};

void CompletionsForm::writeHead(std::string &out) const {
  JsonWriter json(out);
  json.beginObject().member("id", head.id).member("object", "text_completion");
  json.member("created", head.created).member("model", head.model);
  json.member("system_fingerprint", head.fingerprint);
}

std::string CompletionsForm::textOf(const Update &update) const {
  std::string text;
  if (update.first && !options.echo.empty())
    text = options.echo[size_t(update.choice / options.perPrompt)];
  for (const ToolCallEvent &part : update.parts)
    text += part.text;
  return text;
}

void CompletionsForm::addTokens(TokenLists &of, const Update &update, std::string_view text) const {
  size_t echoed = 0;
  if (update.first && !options.echo.empty()) {
    of.addPrompt(update.prompt);
    echoed = options.echo[size_t(update.choice / options.perPrompt)].size();
  }
  of.addAnswer(update.tokens, text.substr(echoed));
}

void CompletionsForm::writeChoice(std::string &out, const Update &update, std::string_view text,
                                  TokenLists &of) const {
  JsonWriter json(out);
  json.beginObject().member("index", update.choice).member("text", text).key("logprobs");
  if (options.logprobs)
    of.write(json);
  else
    json.value(nullptr);
  json.key("finish_reason");
  update.finish ? json.value(finishReason(update)) : json.value(nullptr);
  json.key("stop_reason");
  writeStopReason(json, update);
  if (options.promptLogprobs) {
    json.key("prompt_logprobs");
    writePromptLogprobs(json, model->tokenizer.get(), update.prompt);
  }
  json.endObject();
}

// Tokens without text wait for it, but for the first: clients take its time.
void CompletionsForm::update(std::string &out, const Update &update, const Totals &totals) {
  while (lists.size() <= size_t(update.choice))
    lists.emplace_back(model->tokenizer.get());
  TokenLists &of = lists[size_t(update.choice)];
  const std::string text = textOf(update);
  if (options.logprobs)
    addTokens(of, update, text);
  if (text.empty() && !update.first && !update.finish)
    return;
  out += "data: ";
  writeHead(out);
  out += ",\"choices\":[";
  writeChoice(out, update, text, of);
  out += ']';
  endChunk(out, options.includeUsage, options.continuousUsage, totals);
}

void CompletionsForm::end(std::string &out, const Totals &totals) {
  if (options.includeUsage) {
    out += "data: ";
    writeHead(out);
    out += ",\"choices\":[],\"usage\":";
    JsonWriter json(out);
    writeUsage(json, totals);
    out += "}\n\n";
  }
  out += "data: [DONE]\n\n";
}

void CompletionsForm::whole(std::string &out, std::span<const Update> updates,
                            const Totals &totals) {
  writeHead(out);
  out += ",\"choices\":[";
  for (const Update &update : updates) {
    if (&update != &updates[0])
      out += ',';
    const std::string text = textOf(update);
    TokenLists of(model->tokenizer.get());
    if (options.logprobs)
      addTokens(of, update, text);
    writeChoice(out, update, text, of);
  }
  out += "],\"usage\":";
  JsonWriter json(out);
  writeUsage(json, totals);
  out += '}';
}

} // namespace

std::unique_ptr<Form> makeCompletionsForm(std::shared_ptr<const ServedModel> model,
                                          CompletionsFormOptions options) {
  return std::make_unique<CompletionsForm>(std::move(model), std::move(options));
}

} // namespace moe::server::api
