// One thread owns sockets, models and state; engines and workers have threads of their own and post
// what they have to it.
#include "tools/moe-serve/Service.h"

#include "runtime/server/page/Page.h"
#include "tools/moe-serve/Systemd.h"

#include <csignal>
#include <cstdio>

namespace moe {

using namespace server;

namespace {

constexpr double kFarewellSeconds = 2; // for clients to read why their requests were cut
constexpr const char *kStopping = "the server is stopping";

void log(const std::string &line) { std::fprintf(stderr, "moe-serve: %s\n", line.c_str()); }

void notify(std::string_view state) {
  if (const Status told = notifySystemd(state); !told)
    log(told.error().message);
}

std::string addressText(const ServeOptions &options, uint16_t port) {
  const bool colons = options.http.host.find(':') != std::string::npos;
  return (options.http.certificate.empty() ? "http://" : "https://") +
         (colons ? "[" + options.http.host + "]" : options.http.host) + ":" + std::to_string(port);
}

bool isLoopback(const std::string &host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

} // namespace

Service::~Service() {
  // Engines and the loader post to the server: they end first.
  if (loader.joinable())
    loader.join();
  api.reset();
  current.clear();
  models.reset();
}

Result<std::unique_ptr<Service>> Service::create(const ServeOptions &options,
                                                 const std::string &version) {
  std::unique_ptr<Service> service(new Service(options));
  MOE_TRY(service->start(version));
  return service;
}

Status Service::start(const std::string &version) {
  startSeconds =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  MOE_ASSIGN(named, namedPlans(options.plans, options.aliases));
  plans = std::move(named);
  if (!options.kvEvents.endpoint.empty()) {
    MOE_ASSIGN(opened, KvEventPublisher::create(options.kvEvents));
    publisher = std::move(opened);
  }

  http::Options sockets = options.http;
  sockets.errorBody = api::Api::errorBody;
  sockets.report = [](std::string_view message) { log(std::string(message)); };
  if (!options.adminSocket.empty())
    sockets.others.push_back({"unix:" + options.adminSocket, 0});
  api::ApiOptions answers;
  if (!options.keyFile.empty()) {
    MOE_ASSIGN(keys, api::Keys::read(options.keyFile));
    answers.keys = std::move(keys);
  }
  const bool open = answers.keys.empty();
  MOE_ASSIGN(made, http::Server::create(sockets, [this](http::HttpRequest request,
                                                        std::shared_ptr<http::Reply> reply) {
               handle(std::move(request), std::move(reply));
             }));
  server = std::move(made);
  answers.version = version;
  answers.sharePrefixes = options.sharePrefixes;
  answers.post = [this](std::function<void()> call) { server->post(std::move(call)); };
  answers.after = [this](std::chrono::milliseconds time, std::function<void()> call) {
    server->after(time, std::move(call));
  };
  answers.state = [this] { return state(); };
  answers.metrics = [this] { return metrics(); };
  api = std::make_unique<api::Api>(std::move(answers), models);
  if (open && !isLoopback(options.http.host))
    log("warning: anybody who reaches " + options.http.host +
        " may use this server; --api-key-file asks for keys");
  log("listening at " + addressText(options, server->port()));
  return ok();
}

void Service::load() {
  again = loading; // what is read now may be older than who asks
  if (loading || draining)
    return;
  loading = true;
  if (loader.joinable())
    loader.join();
  loader = std::thread([this] {
    for (const NamedPlan &plan : plans) {
      if (ends)
        return;
      const auto began = Clock::now();
      auto model = Model::create(
          plan, options, [this](std::function<void()> call) { server->post(std::move(call)); },
          publisher);
      const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
      server->post([this, seconds, model = std::move(model)] {
        model ? install(*model, seconds) : loadFailed(model.error());
      });
    }
    server->post([this] {
      loading = false;
      if (again)
        load();
      else if (!draining)
        notify("READY=1\nSTATUS=serving");
    });
  });
}

// Takes the place of a model of the same name. Requests that have found the old one, of which some
// are not submitted yet, go on to their end with it: it takes them all, and ends when none has it.
void Service::install(std::shared_ptr<Model> model, double seconds) {
  const std::string &name = model->plan().name;
  if (const auto before = current.find(name); before != current.end())
    replaced.push_back(before->second);
  models->put(Model::served(model, options));
  char took[32];
  std::snprintf(took, sizeof took, "%.3f", seconds);
  log("model '" + name + "': " + model->plan().path + " in " + took + " s on " +
      model->description());
  current[name] = std::move(model);
}

// At the start that is the end; later, what was there before goes on.
void Service::loadFailed(const Error &error) {
  log("error: " + error.message);
  if (current.size() == plans.size())
    return;
  failed = true;
  server->stop();
}

int Service::run() {
  server->onSignal({SIGTERM, SIGINT, SIGHUP}, [this](int signal) { onSignal(signal); });
  load();
  watch();
  server->run();
  ends = true; // a plan that is being loaded is waited for; a signal ends us meanwhile
  for (const int signal : {SIGTERM, SIGINT})
    std::signal(signal, SIG_DFL);
  return failed ? 1 : 0;
}

void Service::handle(http::HttpRequest request, std::shared_ptr<http::Reply> reply) {
  if (request.listener > 0)
    return handleAdmin(request, *reply);
  if (options.ui && request.path == "/" && request.method == "GET")
    return reply->send(200, "text/html; charset=utf-8", std::string(chatPage),
                       {{"Content-Security-Policy", std::string(chatPagePolicy)},
                        {"X-Content-Type-Options", "nosniff"},
                        {"Referrer-Policy", "no-referrer"},
                        {"Cache-Control", "no-cache"}});
  api->handle(std::move(request), std::move(reply));
}

// On the socket in the file system, which its owner alone may connect to.
void Service::handleAdmin(const http::HttpRequest &request, http::Reply &reply) {
  if (request.method == "POST" && request.path == "/admin/reload") {
    reload();
    return reply.send(202, "application/json", "{\"status\":\"reloading\"}\n");
  }
  if (request.method == "POST" && request.path == "/admin/drain") {
    beginDrain();
    return reply.send(202, "application/json", "{\"status\":\"draining\"}\n");
  }
  reply.send(404, "application/json",
             api::Api::errorBody(404, "this socket has POST /admin/reload and POST /admin/drain"));
}

void Service::onSignal(int signal) {
  if (signal == SIGHUP)
    return reload();
  if (draining) { // the second one
    log("ended at once");
    std::_Exit(128 + signal);
  }
  beginDrain();
}

void Service::reload() {
  notify("RELOADING=1\nMONOTONIC_USEC=" +
         std::to_string(
             std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch())
                 .count()));
  load();
}

void Service::beginDrain() {
  if (draining)
    return;
  draining = true;
  drainBegan = Clock::now();
  notify("STOPPING=1");
  log("draining");
  for (const auto &[name, model] : current)
    model->engine().drain();
  for (const std::weak_ptr<Model> &old : replaced)
    if (const std::shared_ptr<Model> model = old.lock())
      model->engine().drain();
  server->endKeepAlive();
}

// Ends when the last answer is on its way: an engine is idle a moment before that.
void Service::endWhenDrained(bool idle) {
  const double drained = std::chrono::duration<double>(Clock::now() - drainBegan).count();
  const bool late = drained >= options.drainGrace;
  if (late)
    server->closeListener();
  if (idle && (server->connections() == 0 || (late && server->answering() == 0)))
    return server->stop();
  if (!cut && drained >= options.drainSeconds)
    cutRequests();
  else if (cut && drained >= options.drainSeconds + kFarewellSeconds)
    server->stop();
}

// Clients are told.
void Service::cutRequests() {
  cut = true;
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%g", options.drainSeconds);
  log("requests are cut: they did not end in " + std::string(seconds) + " s");
  server->closeListener();
  for (const std::weak_ptr<Model> &old : replaced)
    if (const std::shared_ptr<Model> model = old.lock())
      model->engine().endAll(kStopping);
  for (const auto &[name, model] : current)
    model->engine().endAll(kStopping);
}

void Service::watch() {
  bool idle = true;
  std::erase_if(replaced, [](const std::weak_ptr<Model> &model) { return model.expired(); });
  for (const std::weak_ptr<Model> &old : replaced)
    if (const std::shared_ptr<Model> model = old.lock())
      idle &= model->engine().idle();
  for (const auto &[name, model] : current) {
    idle &= model->engine().idle();
    if (const std::optional<Error> failure = model->engine().failure(); failure && !failed) {
      log("model '" + name + "' has failed: " + failure->message);
      failed = true;
      beginDrain();
    }
  }
  if (draining)
    endWhenDrained(idle);
  server->after(std::chrono::milliseconds(draining ? 20 : 250), [this] { watch(); });
}

api::ApiState Service::state() const {
  using Is = api::ApiState::Is;
  if (failed)
    return {Is::Failed, "a device of the server has failed"};
  if (draining)
    return {Is::Draining, "the server is about to end"};
  return {current.size() < plans.size() ? Is::Loading : Is::Serving, ""};
}

std::string Service::metrics() const {
  std::vector<ModelFigures> figures;
  for (const NamedPlan &plan : plans)
    if (const auto found = current.find(plan.name); found != current.end())
      figures.push_back(found->second->figures());
  return metricsText(figures, {server->connections(), startSeconds});
}

} // namespace moe
