// What the prefix cache holds, told to routers that send a request to where its beginning is: the
// events of vLLM's ZmqEventPublisher (vllm/distributed/kv_events.py), over ZeroMQ.
//
// A PUB socket sends [topic, sequence number as 8 bytes big-endian, msgpack of a batch]. A ROUTER
// socket, where asked for, answers a sequence number with the batches from there on that are still
// known, each as [number, batch], and then [-1, empty].
#ifndef MOE_RUNTIME_SERVER_KVEVENTS_H
#define MOE_RUNTIME_SERVER_KVEVENTS_H

#include "runtime/Status.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace moe::server {

struct KvEvent {
  bool stored; // or removed
  uint64_t hash;
  std::optional<uint64_t> parent; // of the page before
  std::vector<int32_t> tokens;    // of a stored page
};

// How structures are written: as maps of field names, as vLLM does since 2026, or as arrays of
// fields with the name of the type first, as before.
enum class KvEncoding { Map, Array };

// A batch in msgpack. `seconds`: since 1970.
std::string encodeKvEvents(std::span<const KvEvent> events, double seconds, KvEncoding encoding);

struct KvEventOptions {
  std::string endpoint;       // "tcp://127.0.0.1:5557": bound
  std::string replayEndpoint; // empty: none
  std::string topic;
  KvEncoding encoding = KvEncoding::Map;
  size_t kept = 10000; // batches for replay
};

class KvEventPublisher {
public:
  // Binds and starts a thread. Errors: Unavailable in a build without ZeroMQ, IoError with the
  // endpoint and why.
  static Result<std::unique_ptr<KvEventPublisher>> create(const KvEventOptions &options);
  static bool available();
  virtual ~KvEventPublisher() = default;

  // One batch; nothing where there are no events. From any thread; does not wait for the network.
  virtual void publish(std::span<const KvEvent> events) = 0;
};

} // namespace moe::server

#endif
