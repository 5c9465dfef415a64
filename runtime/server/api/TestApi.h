// For tests: an API whose model says what the test has written down.
#ifndef MOE_RUNTIME_SERVER_API_TESTAPI_H
#define MOE_RUNTIME_SERVER_API_TESTAPI_H

#include "runtime/server/api/Api.h"
#include "runtime/server/api/CallQueue.h"
#include "runtime/server/api/LocalReply.h"
#include "runtime/text/Detokenizer.h"
#include "runtime/text/TestVocabulary.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <random>

namespace moe::server::api {

// Ids below 256 are bytes, those above Llama 4's special tokens.
inline const Tokenizer &byteTokenizer() {
  static const auto owned = [] {
    std::vector<std::string> bytes;
    for (int byte = 0; byte < 256; ++byte)
      bytes.emplace_back(1, char(byte));
    std::vector<SpecialToken> specials;
    for (const char *content :
         {"<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eom|>",
          "<|eot|>", "<|python_start|>", "<|python_end|>", "<|image|>"})
      specials.push_back({content, int32_t(256 + specials.size()), true});
    return OwnedTokenizer::make(bytes, {}, std::move(specials));
  }();
  return owned.tokenizer;
}
inline constexpr int64_t kTestVocab = 300;

// Says the same to every request, in events of random sizes, when run() is called.
class ScriptedGenerator : public Generator {
public:
  std::string says = "Hello"; // special tokens in it are such
  Finish finish = Finish::StopToken;
  std::string error, stopString;
  std::optional<Refusal> refusal;
  std::vector<Request> seen;
  std::vector<RequestId> cancelled;
  int64_t cached = 0;
  bool hidden = false; // has hidden states
  size_t longest = 4;  // tokens of an event
  std::mt19937 random{1};

  std::variant<RequestId, Refusal> submit(Request request,
                                          std::shared_ptr<EventSink> sink) override {
    if (refusal)
      return *refusal;
    if (request.embed && !hidden)
      return Refusal{{Code::Unimplemented, "the plan has no hidden states"}, {}};
    seen.push_back(request);
    running[++last] = script(request, std::move(sink));
    return last;
  }
  void cancel(RequestId id) override {
    cancelled.push_back(id);
    running.erase(id);
  }
  int64_t context() const override { return 4096; }
  int64_t vocab() const override { return kTestVocab; }

  // Delivers one event of each request. Whether there was any.
  bool step() {
    std::vector<std::pair<std::shared_ptr<EventSink>, Event>> events;
    for (auto at = running.begin(); at != running.end();) {
      auto &[sink, queue] = at->second;
      events.emplace_back(sink, std::move(queue.front()));
      queue.erase(queue.begin());
      at = queue.empty() ? running.erase(at) : std::next(at);
    }
    for (auto &[sink, event] : events)
      sink->onEvent(std::move(event));
    return !events.empty();
  }
  size_t open() const { return running.size(); }

private:
  using Script = std::pair<std::shared_ptr<EventSink>, std::vector<Event>>;

  Script script(const Request &request, std::shared_ptr<EventSink> sink) {
    std::vector<Event> all;
    for (int32_t choice = 0; choice < request.choices; ++choice)
      for (Event &event : eventsOf(request, choice))
        all.push_back(std::move(event));
    return {std::move(sink), std::move(all)};
  }

  std::vector<Event> eventsOf(const Request &request, int32_t choice) {
    std::vector<int32_t> ids;
    byteTokenizer().encode(says, ids);
    Finish ends = finish;
    if (finish == Finish::StopToken)
      ids.push_back(byteTokenizer().special("<|eot|>"));
    if (int64_t(ids.size()) > request.maxTokens) {
      ids.resize(size_t(request.maxTokens));
      ends = Finish::Length;
    }
    std::vector<Event> events(1);
    Detokenizer text(byteTokenizer(), /*skipSpecial=*/false);
    for (const int32_t id : ids) {
      Event &event = events.back();
      const bool shown = std::count(request.shown.begin(), request.shown.end(), id) > 0;
      const std::string more =
          byteTokenizer().isSpecial(id) && !shown && request.skipSpecial ? "" : text.push(id);
      event.text += more;
      TokenEvent token{id, more.size(), {}, {}};
      if (request.logprobs) {
        token.logprob = -0.5f;
        for (int32_t i = 0; i < *request.logprobs; ++i)
          token.likely.push_back({(id + i) % 256, -0.5f - float(i)});
      }
      event.tokens.push_back(token);
      if (event.tokens.size() > random() % longest)
        events.emplace_back();
    }
    if (events.size() > 1 && events.back().tokens.empty())
      events.pop_back();
    for (Event &event : events)
      event.choice = choice;
    if (choice == 0) {
      events.front().cachedTokens = cached;
      if (request.promptLogprobs)
        for (size_t i = 0; i < request.prompt.size(); ++i) {
          TokenEvent token{request.prompt[i], 0, {}, {}};
          if (i > 0)
            token.logprob = -1.5f;
          events.front().prompt.push_back(token);
        }
      if (request.embed)
        events.front().embedding = {{3, 4}, {0, 2}};
    }
    events.back().text += text.flush();
    events.back().finish = ends;
    events.back().error = error;
    events.back().stopString = ends == Finish::StopString ? stopString : "";
    return events;
  }

  std::map<RequestId, Script> running;
  RequestId last = 0;
};

// Takes any source that holds no "((".
class ScriptedGrammars : public GrammarCompiler {
public:
  struct Grammar : CompiledGrammar {
    std::unique_ptr<GrammarMatcher> start() const override { return nullptr; }
  };
  std::mutex mutex; // held by a test: compiling takes as long
  std::atomic<int> begun = 0;
  std::vector<GrammarSource> seen;

  Result<std::shared_ptr<const CompiledGrammar>> compile(const GrammarSource &source) override {
    ++begun;
    const std::lock_guard lock(mutex);
    seen.push_back(source);
    if (source.text.find("((") != std::string::npos)
      return Error{Code::InvalidArgument, "the pattern has parentheses that are not closed"};
    return std::shared_ptr<const CompiledGrammar>(std::make_shared<Grammar>());
  }
};

struct TestApi {
  std::shared_ptr<ScriptedGenerator> generator = std::make_shared<ScriptedGenerator>();
  std::shared_ptr<ScriptedGrammars> grammars = std::make_shared<ScriptedGrammars>();
  std::shared_ptr<Models> models = std::make_shared<Models>();
  CallQueue queue;
  std::vector<std::pair<std::chrono::milliseconds, std::function<void()>>> timers;
  ApiState state;
  std::unique_ptr<Api> api;

  explicit TestApi(ApiOptions options = {}) {
    models->put(model("cria"));
    options.version = "1.2.3";
    options.post = [this](std::function<void()> call) { queue.post(std::move(call)); };
    options.after = [this](std::chrono::milliseconds time, std::function<void()> call) {
      timers.emplace_back(time, std::move(call));
    };
    options.state = [this] { return state; };
    options.metrics = [] { return std::string("moe_up 1\n"); };
    api = std::make_unique<Api>(std::move(options), models);
  }

  std::shared_ptr<ServedModel> model(const std::string &name) {
    auto model = std::make_shared<ServedModel>();
    model->name = name;
    model->hash = "abc123";
    model->created = 1700000000;
    model->tokenizer = {std::shared_ptr<void>(), &byteTokenizer()};
    ChatFormat format = ChatFormat::llama4();
    format.tools = ChatFormat::kHfJson;
    format.stopTokens = {byteTokenizer().special("<|eot|>"), byteTokenizer().special("<|eom|>")};
    model->chat =
        std::make_shared<ChatTemplate>(*ChatTemplate::create(byteTokenizer(), std::move(format)));
    model->grammars = grammars;
    model->generator = generator;
    model->stopTokens = {byteTokenizer().special("<|end_of_text|>")};
    model->sampling.temperature = 0.6;
    model->sampling.topP = 0.9;
    return model;
  }

  static http::HttpRequest request(std::string method, std::string path, std::string body = {}) {
    http::HttpRequest request;
    request.method = std::move(method);
    request.path = std::move(path);
    request.body = std::move(body);
    if (request.method == "POST")
      request.headers.emplace_back("content-type", "application/json");
    return request;
  }

  // The request until it is submitted or answered.
  std::shared_ptr<LocalReply> begin(http::HttpRequest request) {
    auto reply = std::make_shared<LocalReply>();
    const size_t before = generator->seen.size();
    api->handle(std::move(request), reply);
    while (!reply->complete && generator->seen.size() == before)
      if (!queue.runOne(std::chrono::seconds(20)))
        break;
    return reply;
  }

  std::shared_ptr<LocalReply> ask(http::HttpRequest request) {
    auto reply = begin(std::move(request));
    while (!reply->complete && generator->step())
      ;
    return reply;
  }

  std::shared_ptr<LocalReply> post(std::string path, std::string body) {
    return ask(request("POST", std::move(path), std::move(body)));
  }
  std::shared_ptr<LocalReply> get(std::string path) { return ask(request("GET", std::move(path))); }
};

} // namespace moe::server::api

#endif
