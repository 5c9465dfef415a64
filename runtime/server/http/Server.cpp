#include "runtime/server/http/Server.h"

#include "runtime/server/http/Connections.h"
#include "runtime/server/http/Cors.h"
#include "runtime/server/http/Listener.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

#include <algorithm>

namespace moe::server::http {

namespace asio = boost::asio;
using boost::system::error_code;

struct Server::Impl {
  // First, so that it is last to go: what is still waited for is destroyed with it.
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work = asio::make_work_guard(io);
  std::shared_ptr<PostQueue> posts =
      std::make_shared<PostQueue>([this] { asio::post(io, [this] { runPosts(); }); });
  std::unique_ptr<Connections> connections;
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<uint16_t> ports; // of each endpoint
  std::vector<std::unique_ptr<asio::signal_set>> signals;

  void runPosts() {
    for (const std::function<void()> &call : posts->take()) {
      if (io.stopped())
        return;
      connections->guard(call);
    }
  }

  void awaitSignal(asio::signal_set &set, const std::function<void(int)> &call) {
    set.async_wait([this, &set, call](error_code error, int signal) {
      if (error)
        return;
      connections->guard([&] { call(signal); });
      awaitSignal(set, call);
    });
  }

  ~Impl() {
    const auto uncalled = posts->close();
    for (auto &listener : listeners)
      listener->close();
    if (connections)
      connections->closeAll();
  }
};

Server::Server(std::unique_ptr<Impl> impl) : impl(std::move(impl)) {}
Server::~Server() = default;

namespace {
Status checkLimits(const Limits &limits) {
  const auto positive = [](const char *name, int64_t value) -> Status {
    if (value > 0)
      return ok();
    return Error{Code::InvalidArgument, "the limit " + std::string(name) + " is " +
                                            std::to_string(value) + ": expected a number above 0"};
  };
  MOE_TRY(positive("body", int64_t(std::min<uint64_t>(limits.body, INT64_MAX))));
  MOE_TRY(positive("bodies", int64_t(std::min<uint64_t>(limits.bodies, INT64_MAX))));
  MOE_TRY(positive("header", int64_t(std::min<uint64_t>(limits.header, INT64_MAX))));
  MOE_TRY(positive("pending", int64_t(std::min<uint64_t>(limits.pending, INT64_MAX))));
  MOE_TRY(positive("connections", limits.connections));
  MOE_TRY(positive("perAddress", limits.perAddress));
  MOE_TRY(positive("headerTime", limits.headerTime.count()));
  MOE_TRY(positive("bodyTime", limits.bodyTime.count()));
  MOE_TRY(positive("idleTime", limits.idleTime.count()));
  MOE_TRY(positive("writeTime", limits.writeTime.count()));
  return ok();
}
} // namespace

Result<std::unique_ptr<Server>> Server::create(const Options &options, Handler handler) {
  try {
    MOE_TRY(checkLimits(options.limits));
    MOE_TRY(checkOrigins(options.corsOrigins));
    std::shared_ptr<Tls> tls;
    if (options.certificate.empty() != options.privateKey.empty())
      return Error{Code::InvalidArgument,
                   options.certificate.empty()
                       ? "there is a private key, but no certificate: TLS needs both"
                       : "there is a certificate, but no private key: TLS needs both"};
    if (!options.certificate.empty()) {
      MOE_ASSIGN(made, Tls::create(options.certificate, options.privateKey));
      tls = made;
    }
    auto impl = std::make_unique<Impl>();
    impl->connections = std::make_unique<Connections>(impl->io, options, std::move(tls),
                                                      std::move(handler), impl->posts);
    std::vector<Endpoint> endpoints = {{options.host, options.port}};
    endpoints.insert(endpoints.end(), options.others.begin(), options.others.end());
    for (size_t i = 0; i < endpoints.size(); ++i) {
      MOE_ASSIGN(opened, Listener::open(*impl->connections, endpoints[i], i));
      impl->ports.push_back(opened.front()->port());
      for (auto &listener : opened)
        impl->listeners.push_back(std::move(listener));
    }
    for (auto &listener : impl->listeners)
      listener->start();
    return std::unique_ptr<Server>(new Server(std::move(impl)));
  } catch (const std::exception &error) { // of Asio: no descriptor for its event queue
    return Error{Code::IoError, "cannot start the server: " + std::string(error.what())};
  }
}

uint16_t Server::port(size_t listener) const {
  return listener < impl->ports.size() ? impl->ports[listener] : 0;
}

void Server::run() {
  while (!impl->io.stopped())
    impl->connections->guard([&] { impl->io.run(); });
}

void Server::post(std::function<void()> call) { impl->posts->post(std::move(call)); }

void Server::after(std::chrono::milliseconds time, std::function<void()> call) {
  auto timer = std::make_shared<asio::steady_timer>(impl->io, time);
  timer->async_wait([this, timer, call = std::move(call)](error_code error) {
    if (!error)
      impl->connections->guard(call);
  });
}

void Server::onSignal(std::vector<int> signals, std::function<void(int)> call) {
  auto set = std::make_unique<asio::signal_set>(impl->io);
  for (int signal : signals)
    set->add(signal);
  impl->awaitSignal(*set, call);
  impl->signals.push_back(std::move(set));
}

void Server::endKeepAlive() { impl->connections->keepsAlive = false; }

void Server::closeListener() {
  for (auto &listener : impl->listeners)
    listener->close();
  impl->connections->closeIdle();
}

void Server::stop() { impl->io.stop(); }

size_t Server::connections() const { return impl->connections->size(); }
size_t Server::answering() const { return impl->connections->answering(); }

} // namespace moe::server::http
