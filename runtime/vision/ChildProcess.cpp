// Linux alone: the input is a memfd, so that it needs no writer, cannot block, and can be sought
// in.
#include "runtime/vision/ChildProcess.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxSaid = 2000; // bytes of standard error that are kept

Error failure(const char *what) {
  return {Code::IoError, std::string(what) + ": " + std::strerror(errno)};
}

// A descriptor of its own. Never one of the three standard ones, which a child's are copied to.
class Descriptor {
public:
  explicit Descriptor(int number = -1) : number(number) {
    if (number >= 0 && number <= STDERR_FILENO) {
      this->number = fcntl(number, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
      ::close(number);
    }
  }
  Descriptor(Descriptor &&other) noexcept : number(std::exchange(other.number, -1)) {}
  Descriptor &operator=(Descriptor &&other) noexcept {
    std::swap(number, other.number);
    return *this;
  }
  ~Descriptor() { close(); }
  void close() {
    if (number >= 0)
      ::close(std::exchange(number, -1));
  }
  operator int() const { return number; }

private:
  int number;
};

struct Pipe {
  Descriptor in, out;
};

Result<Pipe> openPipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return failure("cannot make a pipe");
  return Pipe{Descriptor(ends[1]), Descriptor(ends[0])};
}

Result<Descriptor> openInput(std::span<const std::byte> input) {
  Descriptor file(memfd_create("input", MFD_CLOEXEC));
  if (file < 0)
    return failure("cannot make a file in memory");
  for (size_t at = 0; at < input.size();) {
    const ssize_t count = write(file, input.data() + at, input.size() - at);
    if (count < 0 && errno != EINTR)
      return failure("cannot fill a file in memory");
    at += size_t(std::max<ssize_t>(count, 0));
  }
  if (lseek(file, 0, SEEK_SET) != 0)
    return failure("cannot rewind a file in memory");
  return file;
}

// The process, which does not outlive this.
class Child {
public:
  Status start(const std::string &program, const std::vector<std::string> &arguments, int input,
               int output, int errors) {
    std::vector<char *> argv = {const_cast<char *>(program.c_str())};
    for (const std::string &argument : arguments)
      argv.push_back(const_cast<char *>(argument.c_str()));
    argv.push_back(nullptr);
    char *none[] = {nullptr};

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t signals;
    sigfillset(&signals);
    posix_spawnattr_setsigdefault(&attributes, &signals);
    sigemptyset(&signals);
    posix_spawnattr_setsigmask(&attributes, &signals);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    const int error =
        posix_spawn(&process, program.c_str(), &actions, &attributes, argv.data(), none);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (error == 0)
      return ok();
    process = -1;
    return Error{error == ENOENT ? Code::Unavailable : Code::IoError,
                 "cannot start " + program + ": " + std::strerror(error)};
  }

  ~Child() {
    if (process > 0) {
      kill(process, SIGKILL);
      wait(0);
    }
  }

  // False: it still runs. Where the program ignores SIGCHLD the system keeps no status.
  bool wait(int flags) {
    pid_t ended;
    while ((ended = waitpid(process, &status, flags)) < 0 && errno == EINTR) {
    }
    if (ended == 0)
      return false;
    if (ended < 0)
      status = 0;
    process = -1;
    return true;
  }

  int status = 0;

private:
  pid_t process = -1;
};

} // namespace

Result<ChildEnd> runChild(const std::string &program, const std::vector<std::string> &arguments,
                          std::span<const std::byte> input, std::chrono::milliseconds deadline,
                          const std::function<bool(std::span<const std::byte>)> &take) {
  const Clock::time_point end = Clock::now() + deadline;
  MOE_ASSIGN(file, openInput(input));
  MOE_ASSIGN(output, openPipe());
  MOE_ASSIGN(errors, openPipe());
  Child child;
  MOE_TRY(child.start(program, arguments, file, output.in, errors.in));
  file.close();
  output.in.close();
  errors.in.close();

  ChildEnd result;
  std::vector<std::byte> buffer(1 << 18);
  while (output.out >= 0 || errors.out >= 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) {
      result.how = ChildEnd::How::TooLate;
      break;
    }
    pollfd ready[] = {{output.out, POLLIN, 0}, {errors.out, POLLIN, 0}};
    if (poll(ready, 2, int(std::min<int64_t>(left, 1'000'000))) < 0 && errno != EINTR)
      return failure("cannot wait for a program");
    for (int i = 0; i < 2 && result.how == ChildEnd::How::Exited; ++i) {
      if (ready[i].revents == 0)
        continue;
      const ssize_t count = read(ready[i].fd, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR)
        continue;
      if (count <= 0)
        (i == 0 ? output : errors).out.close();
      else if (i == 1)
        result.said.append(reinterpret_cast<const char *>(buffer.data()),
                           std::min(size_t(count), kMaxSaid - result.said.size()));
      else if (!take(std::span(buffer).first(size_t(count))))
        result.how = ChildEnd::How::Stopped;
    }
    if (result.how != ChildEnd::How::Exited)
      break;
  }
  // Both ends are closed: it is about to go.
  while (result.how == ChildEnd::How::Exited && !child.wait(WNOHANG)) {
    if (Clock::now() >= end)
      result.how = ChildEnd::How::TooLate;
    else
      std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  if (result.how == ChildEnd::How::Exited) {
    if (WIFSIGNALED(child.status))
      result = {ChildEnd::How::Signaled, WTERMSIG(child.status), std::move(result.said)};
    else
      result.value = WEXITSTATUS(child.status);
  }
  constexpr const char *kSpace = " \t\r\n";
  result.said.erase(result.said.find_last_not_of(kSpace) + 1);
  result.said.erase(0, std::min(result.said.find_first_not_of(kSpace), result.said.size()));
  return result;
}

std::string describe(const ChildEnd &end) {
  switch (end.how) {
  case ChildEnd::How::Exited:
    return "exited with status " + std::to_string(end.value);
  case ChildEnd::How::Signaled: {
    const char *name = sigdescr_np(end.value);
    return "died of signal " + std::to_string(end.value) +
           (name ? " (" + std::string(name) + ")" : "");
  }
  case ChildEnd::How::TooLate:
    return "took too long";
  case ChildEnd::How::Stopped:
    break;
  }
  return "was stopped";
}

} // namespace moe
