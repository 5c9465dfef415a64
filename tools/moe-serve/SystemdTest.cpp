#include "tools/moe-serve/Systemd.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace moe {
namespace {

// A socket that listens as a service manager does, at `name` (@: abstract).
class Manager {
public:
  explicit Manager(const std::string &name) : name(name) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name[0] == '@')
      address.sun_path[0] = 0;
    else
      unlink(name.c_str());
    socket = ::socket(AF_UNIX, SOCK_DGRAM, 0);
    EXPECT_EQ(bind(socket, reinterpret_cast<sockaddr *>(&address),
                   socklen_t(offsetof(sockaddr_un, sun_path) + name.size())),
              0);
    setenv("NOTIFY_SOCKET", name.c_str(), 1);
  }
  ~Manager() {
    unsetenv("NOTIFY_SOCKET");
    close(socket);
    if (name[0] != '@')
      unlink(name.c_str());
  }
  std::string received() {
    char text[256];
    const ssize_t size = recv(socket, text, sizeof text, MSG_DONTWAIT);
    return size < 0 ? "" : std::string(text, size_t(size));
  }

private:
  std::string name;
  int socket;
};

TEST(Systemd, NothingListens) {
  unsetenv("NOTIFY_SOCKET");
  EXPECT_TRUE(notifySystemd("READY=1"));
}

TEST(Systemd, Tells) {
  for (const std::string &name : {::testing::TempDir() + "moe-notify-" + std::to_string(getpid()),
                                  "@moe-notify-" + std::to_string(getpid())}) {
    Manager manager(name);
    EXPECT_TRUE(notifySystemd("READY=1\nSTATUS=serving"));
    EXPECT_EQ(manager.received(), "READY=1\nSTATUS=serving");
    EXPECT_EQ(manager.received(), "");
  }
}

TEST(Systemd, SaysWhatIsWrong) {
  for (const std::string &name :
       {std::string("relative"), "/" + std::string(200, 'x'), std::string("/no/such/socket")}) {
    setenv("NOTIFY_SOCKET", name.c_str(), 1);
    const Status status = notifySystemd("READY=1");
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, Code::IoError);
    EXPECT_NE(status.error().message.find("NOTIFY_SOCKET="), std::string::npos);
  }
  unsetenv("NOTIFY_SOCKET");
}

} // namespace
} // namespace moe
