// In place of KvEventsZmq.cpp in a build without ZeroMQ.
#include "runtime/server/KvEvents.h"

namespace moe::server {

bool KvEventPublisher::available() { return false; }

Result<std::unique_ptr<KvEventPublisher>> KvEventPublisher::create(const KvEventOptions &options) {
  return Error{Code::Unavailable, "KV events cannot be published at '" + options.endpoint +
                                      "': this program was built without ZeroMQ (libzmq3-dev)"};
}

} // namespace moe::server
