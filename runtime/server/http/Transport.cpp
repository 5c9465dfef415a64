#include "runtime/server/http/Transport.h"

#include <cerrno>
#include <sys/socket.h>

namespace moe::server::http {

namespace {
Transfer failure(Transfer::State again) {
  return {errno == EAGAIN || errno == EWOULDBLOCK ? again : Transfer::State::Failed};
}

class PlainTransport final : public Transport {
public:
  explicit PlainTransport(int descriptor) : descriptor(descriptor) {}

  Transfer read(char *data, size_t size) override {
    ssize_t bytes = 0;
    do
      bytes = ::recv(descriptor, data, size, 0);
    while (bytes < 0 && errno == EINTR);
    if (bytes < 0)
      return failure(Transfer::State::NeedsRead);
    return bytes == 0 ? Transfer{Transfer::State::Closed}
                      : Transfer{Transfer::State::Done, size_t(bytes)};
  }

  Transfer write(std::string_view data) override {
    ssize_t bytes = 0;
    do
      bytes = ::send(descriptor, data.data(), data.size(), MSG_NOSIGNAL);
    while (bytes < 0 && errno == EINTR);
    if (bytes < 0)
      return failure(Transfer::State::NeedsWrite);
    return {Transfer::State::Done, size_t(bytes)};
  }

  void endWriting() override { ::shutdown(descriptor, SHUT_WR); }

private:
  int descriptor;
};
} // namespace

std::unique_ptr<Transport> makePlainTransport(int descriptor) {
  return std::make_unique<PlainTransport>(descriptor);
}

} // namespace moe::server::http
