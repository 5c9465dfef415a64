// The server: models, the API and its sockets, and their life from start to drain.
#ifndef MOE_TOOLS_MOE_SERVE_SERVICE_H
#define MOE_TOOLS_MOE_SERVE_SERVICE_H

#include "runtime/server/api/Api.h"
#include "tools/moe-serve/Model.h"

#include <atomic>
#include <map>
#include <thread>

namespace moe {

class Service {
public:
  // Listens. Error: the first thing that is wrong, with what to do.
  static Result<std::unique_ptr<Service>> create(const ServeOptions &options,
                                                 const std::string &version);
  ~Service();

  // Loads the plans, while /health says 503, and serves until a signal has drained it. The exit
  // status: 0, or 1 where a plan could not be opened at the start or an engine has failed.
  int run();

private:
  explicit Service(const ServeOptions &options) : options(options) {}
  Status start(const std::string &version);
  void load(); // all plans, on a thread of its own
  void install(std::shared_ptr<Model> model, double seconds);
  void loadFailed(const Error &error);
  void handle(server::http::HttpRequest request, std::shared_ptr<server::http::Reply> reply);
  void handleAdmin(const server::http::HttpRequest &request, server::http::Reply &reply);
  void onSignal(int signal);
  void reload();
  void beginDrain();
  void watch(); // a few times a second
  void endWhenDrained(bool idle);
  void cutRequests();
  server::api::ApiState state() const;
  std::string metrics() const;

  const ServeOptions options;
  std::vector<NamedPlan> plans;
  std::shared_ptr<server::KvEventPublisher> publisher; // null: none
  std::unique_ptr<server::http::Server> server;
  std::shared_ptr<server::api::Models> models = std::make_shared<server::api::Models>();
  std::map<std::string, std::shared_ptr<Model>> current; // by name
  std::vector<std::weak_ptr<Model>> replaced;            // that may still have requests
  std::unique_ptr<server::api::Api> api;
  double startSeconds = 0;
  bool draining = false, failed = false, loading = false;
  bool again = false;             // load once more
  bool cut = false;               // what did not end in time
  std::atomic<bool> ends = false; // no more plans are loaded
  server::Clock::time_point drainBegan;
  std::thread loader;
};

} // namespace moe

#endif
