// A thread owns both sockets, as ZeroMQ wants it; batches come to it through a queue and an
// eventfd.
#include "runtime/server/KvEvents.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <mutex>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>
#include <zmq.h>

namespace moe::server {
namespace {

std::string bigEndian(uint64_t number) {
  std::string bytes(8, 0);
  for (int i = 0; i < 8; ++i)
    bytes[size_t(i)] = char(number >> (56 - 8 * i));
  return bytes;
}

class Publisher final : public KvEventPublisher {
public:
  explicit Publisher(const KvEventOptions &options) : options(options) {}
  ~Publisher() override {
    if (thread.joinable()) {
      {
        const std::lock_guard lock(mutex);
        ending = true;
      }
      wake();
      thread.join();
    }
    for (void *socket : {events, replay})
      if (socket)
        zmq_close(socket);
    if (context)
      zmq_ctx_term(context);
    if (wakeup >= 0)
      close(wakeup);
  }

  Status open() {
    context = zmq_ctx_new();
    wakeup = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!context || wakeup < 0)
      return Error{Code::IoError, std::string("KV events: ") + std::strerror(errno)};
    MOE_TRY(bind(events, ZMQ_PUB, options.endpoint));
    if (!options.replayEndpoint.empty())
      MOE_TRY(bind(replay, ZMQ_ROUTER, options.replayEndpoint));
    thread = std::thread([this] { run(); });
    return ok();
  }

  void publish(std::span<const KvEvent> batch) override {
    if (batch.empty())
      return;
    const double seconds =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    std::string bytes = encodeKvEvents(batch, seconds, options.encoding);
    {
      const std::lock_guard lock(mutex);
      queue.push_back(std::move(bytes));
    }
    wake();
  }

private:
  Status bind(void *&socket, int type, const std::string &endpoint) {
    socket = zmq_socket(context, type);
    const int most = 100000, none = 0;
    if (socket && zmq_setsockopt(socket, ZMQ_SNDHWM, &most, sizeof most) == 0 &&
        zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none) == 0 &&
        zmq_bind(socket, endpoint.c_str()) == 0)
      return ok();
    return Error{Code::IoError, "KV events cannot be published at '" + endpoint +
                                    "': " + zmq_strerror(zmq_errno()) +
                                    "; expected an address such as tcp://127.0.0.1:5557"};
  }

  void wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wakeup, &one, sizeof one);
  }

  void run() {
    for (;;) {
      zmq_pollitem_t items[] = {{nullptr, wakeup, ZMQ_POLLIN, 0}, {replay, 0, ZMQ_POLLIN, 0}};
      if (zmq_poll(items, replay ? 2 : 1, -1) < 0 && zmq_errno() != EINTR)
        return;
      uint64_t count;
      [[maybe_unused]] const ssize_t got = read(wakeup, &count, sizeof count);
      std::deque<std::string> batches;
      bool last;
      {
        const std::lock_guard lock(mutex);
        batches.swap(queue);
        last = ending;
      }
      for (std::string &batch : batches)
        sendBatch(std::move(batch));
      if (replay && items[1].revents & ZMQ_POLLIN)
        answer();
      if (last)
        return;
    }
  }

  void sendBatch(std::string batch) {
    const std::string number = bigEndian(next++);
    send(events, {options.topic, number, batch});
    kept.push_back(std::move(batch));
    if (kept.size() > options.kept)
      kept.pop_front();
  }

  // One request: [who, empty, number]. Anything else is ignored.
  void answer() {
    std::vector<std::string> frames;
    int more = 1;
    size_t size = sizeof more;
    while (more) {
      zmq_msg_t message;
      zmq_msg_init(&message);
      if (zmq_msg_recv(&message, replay, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&message);
        return;
      }
      frames.emplace_back(static_cast<const char *>(zmq_msg_data(&message)),
                          zmq_msg_size(&message));
      zmq_msg_close(&message);
      if (zmq_getsockopt(replay, ZMQ_RCVMORE, &more, &size) != 0)
        return;
    }
    if (frames.size() != 3 || frames[2].size() != 8)
      return;
    uint64_t from = 0;
    for (const char byte : frames[2])
      from = from << 8 | uint8_t(byte);
    const uint64_t first = next - kept.size();
    for (uint64_t number = std::max(from, first); number < next; ++number)
      send(replay, {frames[0], "", bigEndian(number), kept[size_t(number - first)]});
    send(replay, {frames[0], "", bigEndian(~uint64_t(0)), ""});
  }

  // A subscriber that does not keep up loses what it could not take, as it does with vLLM.
  static void send(void *socket, const std::vector<std::string> &frames) {
    for (size_t i = 0; i < frames.size(); ++i)
      if (zmq_send(socket, frames[i].data(), frames[i].size(),
                   ZMQ_DONTWAIT | (i + 1 < frames.size() ? ZMQ_SNDMORE : 0)) < 0)
        return;
  }

  const KvEventOptions options;
  void *context = nullptr, *events = nullptr, *replay = nullptr;
  int wakeup = -1;

  std::mutex mutex; // of these two
  std::deque<std::string> queue;
  bool ending = false;

  std::thread thread;           // owns these
  std::deque<std::string> kept; // the last ones published
  uint64_t next = 0;            // number of the next one
};

} // namespace

bool KvEventPublisher::available() { return true; }

Result<std::unique_ptr<KvEventPublisher>> KvEventPublisher::create(const KvEventOptions &options) {
  auto publisher = std::make_unique<Publisher>(options);
  MOE_TRY(publisher->open());
  return std::unique_ptr<KvEventPublisher>(std::move(publisher));
}

} // namespace moe::server
