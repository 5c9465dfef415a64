#include "runtime/server/api/Api.h"

#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/JsonText.h"
#include "runtime/server/api/Worker.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <charconv>

namespace moe::server::api {
namespace {

struct Endpoint {
  const char *path;
  Outcome (*prepare)(const Json &body, const Models &models);
  Dialect dialect = Dialect::OpenAi;
};

constexpr Endpoint kEndpoints[] = {
    {"/v1/chat/completions", chatCompletions},
    {"/v1/completions", completions},
    {"/v1/messages", messages, Dialect::Anthropic},
    {"/v1/messages/count_tokens", countTokens, Dialect::Anthropic},
    {"/v1/responses", responses},
    {"/v1/embeddings", embeddings},
    {"/tokenize", tokenize},
    {"/detokenize", detokenize},
    {"/apply-template", applyTemplate},
};

constexpr std::string_view kModels = "/v1/models";

// A grammar may take seconds: a key that has so many waiting had better try again. What others wait
// for is no more than one of them, since keys share the compiler's time.
constexpr size_t kMaxGrammars = 64;

void writeModel(JsonWriter &json, const ServedModel &model, const std::string &name) {
  json.beginObject().member("id", name).member("object", "model");
  json.member("created", model.created).member("owned_by", "moec").member("root", model.name);
  json.member("parent", nullptr).member("max_model_len", model.generator->context()).endObject();
}

// A request's body has to be declared as JSON: a page of another origin cannot do that without
// being asked for first, so that no page can use a server on the machine of who looks at it.
bool isJson(const std::string *type) {
  if (!type)
    return false;
  std::string_view media = std::string_view(*type).substr(0, type->find(';'));
  while (!media.empty() && media.back() == ' ')
    media.remove_suffix(1);
  constexpr std::string_view kJson = "application/json";
  return std::equal(media.begin(), media.end(), kJson.begin(), kJson.end(),
                    [](char a, char b) { return std::tolower(uint8_t(a)) == b; });
}

} // namespace

struct Api::Impl {
  // What a request has beside its body, from its arrival to its submission.
  struct Call {
    std::shared_ptr<http::Reply> reply;
    const Endpoint *endpoint = nullptr;
    std::string key; // its name
    std::optional<Clock::time_point> deadline;
    std::shared_ptr<std::atomic<bool>> gone = std::make_shared<std::atomic<bool>>(false);
  };

  ApiOptions options;
  std::shared_ptr<Models> models;
  // Posted calls may run when the API is gone, and then do nothing.
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
  Worker compiler, reader; // a reader gives to the compiler, and so ends first

  Impl(ApiOptions options, std::shared_ptr<Models> models)
      : options(std::move(options)), models(std::move(models)) {}

  bool hasPage(const std::string &path) const;
  void get(const std::string &path, http::Reply &reply);
  void listModels(const std::string &path, http::Reply &reply);
  void read(std::string body, Call call);
  void compile(Task task, Call call);
  void post(Call call, std::function<void(Call)> next);
  void start(Task task, Call call);
  ApiState state() const { return options.state ? options.state() : ApiState(); }
  Check readDeadline(const http::HttpRequest &request, Call &call) const;
};

namespace {

Problem stateProblem(const ApiState &state) {
  const char *general = state.is == ApiState::Is::Loading    ? "the model is being loaded"
                        : state.is == ApiState::Is::Draining ? "the server is stopping"
                                                             : "the server has failed";
  return {503, state.reason.empty() ? general : state.reason, {}, {}, std::chrono::seconds(1)};
}

void sendObject(http::Reply &reply, const char *name, std::string_view value) {
  std::string out;
  JsonWriter(out).beginObject().member(name, value).endObject();
  reply.send(200, "application/json", std::move(out));
}

} // namespace

// What can be looked at: the paths of get().
bool Api::Impl::hasPage(const std::string &path) const {
  return path == "/live" || path == "/health" || path == "/version" ||
         (path == "/metrics" && options.metrics) || (path == "/" && !options.page.empty()) ||
         path.starts_with(kModels);
}

void Api::Impl::get(const std::string &path, http::Reply &reply) {
  if (path == "/live")
    return sendObject(reply, "status", "ok");
  if (path == "/health") {
    const ApiState now = state();
    if (now.is == ApiState::Is::Serving)
      return sendObject(reply, "status", "ok");
    return sendProblem(reply, stateProblem(now), Dialect::OpenAi);
  }
  if (path == "/version")
    return sendObject(reply, "version", options.version);
  if (path == "/metrics")
    return reply.send(200, "text/plain; version=0.0.4; charset=utf-8", options.metrics());
  if (path == "/")
    return reply.send(200, "text/html; charset=utf-8", options.page,
                      {{"X-Content-Type-Options", "nosniff"}});
  listModels(path, reply);
}

void Api::Impl::listModels(const std::string &path, http::Reply &reply) {
  std::string out;
  JsonWriter json(out);
  if (path == kModels) {
    json.beginObject().member("object", "list").key("data").beginArray();
    for (const auto &model : models->all()) {
      writeModel(json, *model, model->name);
      for (const std::string &alias : model->aliases)
        writeModel(json, *model, alias);
    }
    json.endArray().endObject();
    return reply.send(200, "application/json", std::move(out));
  }
  const std::string name = path.substr(kModels.size() + 1);
  const auto model = path[kModels.size()] == '/' && !name.empty() ? models->find(name) : nullptr;
  if (!model)
    return sendProblem(reply,
                       {404,
                        "the model '" + name.substr(0, 128) + "' does not exist",
                        "model",
                        "model_not_found",
                        {}},
                       Dialect::OpenAi);
  writeModel(json, *model, name);
  reply.send(200, "application/json", std::move(out));
}

Check Api::Impl::readDeadline(const http::HttpRequest &request, Call &call) const {
  auto time = options.maxTime;
  constexpr const char *kHeader = "x-request-timeout-ms";
  if (const std::string *text = request.header(kHeader)) {
    int64_t asked = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), asked);
    if (error != std::errc() || end != text->data() + text->size() || asked < 1)
      return Problem::invalid(kHeader,
                              std::string(kHeader) + ": expected milliseconds, at least 1");
    if (time.count() == 0 || asked < time.count())
      time = std::chrono::milliseconds(std::min<int64_t>(asked, 365LL * 86'400'000));
  }
  if (time.count() > 0)
    call.deadline = Clock::now() + time;
  return std::nullopt;
}

// On the reader.
void Api::Impl::read(std::string body, Call call) {
  if (*call.gone)
    return post(std::move(call), {});
  const Result<Json> json = parseJson(body);
  std::string().swap(body);
  Outcome outcome = json ? call.endpoint->prepare(*json, *models)
                         : Outcome(Problem{400, json.error().message, {}, "invalid_json", {}});
  if (Task *task = std::get_if<Task>(&outcome)) {
    for (Request &request : task->requests) {
      request.key = call.key;
      request.salt = saltOf(options.sharePrefixes ? std::string() : call.key, task->cacheSalt);
      request.deadline = call.deadline;
    }
    auto shared = std::make_shared<Task>(std::move(*task));
    if (shared->grammar && compiler.waiting(call.key) >= kMaxGrammars)
      return post(std::move(call), [](Call call) {
        sendProblem(*call.reply,
                    {429,
                     "too many requests wait for their grammars to be compiled",
                     {},
                     "too_many_requests",
                     std::chrono::seconds(5)},
                    call.endpoint->dialect);
      });
    if (shared->grammar)
      return compiler.add(call.key, [this, shared, call]() mutable {
        compile(std::move(*shared), std::move(call));
      });
    return post(std::move(call),
                [this, shared](Call call) { start(std::move(*shared), std::move(call)); });
  }
  auto shared = std::make_shared<Outcome>(std::move(outcome));
  post(std::move(call), [shared](Call call) {
    if (auto *text = std::get_if<std::string>(&*shared))
      call.reply->send(200, "application/json", std::move(*text));
    else
      sendProblem(*call.reply, std::get<Problem>(*shared), call.endpoint->dialect);
  });
}

// On the compiler.
void Api::Impl::compile(Task task, Call call) {
  if (*call.gone) // or clients who do not wait could keep it busy for all others
    return post(std::move(call), {});
  Result<std::shared_ptr<const CompiledGrammar>> grammar = Error{
      Code::Unavailable, "this server cannot constrain answers: it is built without grammars, "
                         "or the model has no tokenizer"};
  if (task.model->grammars)
    grammar = task.model->grammars->compile(*task.grammar);
  if (grammar)
    for (Request &request : task.requests)
      request.grammar = *grammar;
  Check problem;
  if (!grammar) // whatever it was, the same request cannot ever be answered
    problem = Problem::invalid(task.grammarField, grammar.error().message);
  auto shared = std::make_shared<Task>(std::move(task));
  post(std::move(call), [this, shared, problem = std::move(problem)](Call call) {
    if (problem)
      sendProblem(*call.reply, *problem, call.endpoint->dialect);
    else
      start(std::move(*shared), std::move(call));
  });
}

// Where the client is gone, `next` is not called; the reply ends on its own thread all the same.
void Api::Impl::post(Call call, std::function<void(Call)> next) {
  options.post([alive = alive, call = std::move(call), next = std::move(next)]() mutable {
    if (*alive && !*call.gone)
      next(std::move(call));
  });
}

void Api::Impl::start(Task task, Call call) {
  answer(std::move(task), std::move(call.reply), options.after);
}

Api::Api(ApiOptions options, std::shared_ptr<Models> models)
    : impl(std::make_unique<Impl>(std::move(options), std::move(models))) {}

Api::~Api() { *impl->alive = false; }

std::string Api::errorBody(int status, std::string_view message) {
  return api::errorBody({status, std::string(message), {}, {}, {}}, Dialect::OpenAi);
}

void Api::handle(http::HttpRequest request, std::shared_ptr<http::Reply> reply) {
  const auto endpoint =
      std::find_if(std::begin(kEndpoints), std::end(kEndpoints),
                   [&](const Endpoint &each) { return request.path == each.path; });
  const bool isEndpoint = endpoint != std::end(kEndpoints);
  const Dialect dialect = isEndpoint ? endpoint->dialect : Dialect::OpenAi;
  Impl::Call call{reply, isEndpoint ? &*endpoint : nullptr, {}, {}};
  // What a monitor asks, and the page, which is the same for all, need no key.
  if (!impl->options.keys.empty() && (isEndpoint || request.path.starts_with("/v1/"))) {
    auto name = impl->options.keys.nameOf(request);
    if (!name)
      return sendProblem(*reply,
                         {401,
                          "the API key is missing or wrong; send one as 'Authorization: "
                          "Bearer KEY'",
                          {},
                          "invalid_api_key",
                          {}},
                         dialect);
    call.key = *std::move(name);
  }
  if (!isEndpoint && !impl->hasPage(request.path)) // whatever the method is
    return sendProblem(*reply, {404, "nothing is at this path", {}, {}, {}}, Dialect::OpenAi);
  if (request.method != (isEndpoint ? "POST" : "GET"))
    return reply->send(
        405, "application/json",
        api::errorBody({405,
                        "this path takes " + std::string(isEndpoint ? "POST" : "GET") + " alone",
                        {},
                        {},
                        {}},
                       dialect),
        {{"Allow", isEndpoint ? "POST" : "GET, HEAD"}});
  if (!isEndpoint)
    return impl->get(request.path, *reply);
  const std::string *encoding = request.header("content-encoding");
  if (!isJson(request.header("content-type")) || (encoding && *encoding != "identity"))
    return sendProblem(
        *reply,
        {415, "the body must be JSON as it is, with 'Content-Type: application/json'", {}, {}, {}},
        dialect);
  if (const ApiState state = impl->state(); state.is != ApiState::Is::Serving)
    return sendProblem(*reply, stateProblem(state), dialect);
  if (const Check problem = impl->readDeadline(request, call))
    return sendProblem(*reply, *problem, dialect);
  reply->onGone([gone = call.gone] { *gone = true; });
  impl->reader.add(call.key, [impl = impl.get(), body = std::move(request.body), call]() mutable {
    impl->read(std::move(body), std::move(call));
  });
}

} // namespace moe::server::api
