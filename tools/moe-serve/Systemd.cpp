#include "tools/moe-serve/Systemd.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace moe {

Status notifySystemd(std::string_view state) {
  const char *path = std::getenv("NOTIFY_SOCKET");
  if (!path || !*path)
    return ok();
  const auto failed = [&](const std::string &why) {
    return Error{Code::IoError, "NOTIFY_SOCKET=" + std::string(path) + ": " + why};
  };
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const size_t length = std::strlen(path);
  if ((path[0] != '/' && path[0] != '@') || length >= sizeof address.sun_path)
    return failed("expected an absolute path or @name of less than " +
                  std::to_string(sizeof address.sun_path) + " bytes");
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@')
    address.sun_path[0] = 0;
  const int socket = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0)
    return failed(std::strerror(errno));
  const ssize_t sent = sendto(socket, state.data(), state.size(), MSG_NOSIGNAL,
                              reinterpret_cast<sockaddr *>(&address),
                              socklen_t(offsetof(sockaddr_un, sun_path) + length));
  const int error = errno;
  close(socket);
  return sent == ssize_t(state.size()) ? ok() : Status(failed(std::strerror(error)));
}

} // namespace moe
