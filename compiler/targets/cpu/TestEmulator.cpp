// Implements the conversation with the emulated program.
#include "compiler/targets/cpu/TestEmulator.h"
#include <cerrno>
#include <cstring>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace moe::codegen {

std::unique_ptr<Emulator> Emulator::aarch64(std::string &missing, std::string processor) {
  const std::string program = MOE_AARCH64_TEST_PROGRAM;
  if (program.empty()) {
    missing = "no aarch64-linux-gnu-g++ when the tests were configured";
    return nullptr;
  }
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    missing = std::string("no sockets: ") + strerror(errno);
    return nullptr;
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  std::string emulator = "qemu-aarch64", option = "-cpu", path = program;
  char *arguments[] = {emulator.data(), option.data(), processor.data(), path.data(), nullptr};
  pid_t process = -1;
  int error = posix_spawnp(&process, emulator.c_str(), &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    missing = "no qemu-aarch64 (Debian: qemu-user): " + std::string(strerror(error));
    return nullptr;
  }
  return std::unique_ptr<Emulator>(new Emulator(process, ends[0]));
}

Emulator::~Emulator() {
  close(socket); // the program ends with its input
  if (process > 0)
    waitpid(process, nullptr, 0);
}

bool Emulator::send(const void *from, size_t bytes) {
  for (auto *at = static_cast<const char *>(from); bytes > 0;) {
    ssize_t sent = ::send(socket, at, bytes, MSG_NOSIGNAL);
    if (sent <= 0)
      return false;
    at += sent;
    bytes -= size_t(sent);
  }
  return true;
}

bool Emulator::receive(void *to, size_t bytes) {
  for (auto *at = static_cast<char *>(to); bytes > 0;) {
    ssize_t got = ::recv(socket, at, bytes, 0);
    if (got <= 0)
      return false;
    at += got;
    bytes -= size_t(got);
  }
  return true;
}

std::string Emulator::waitForEnd() {
  int status = 0;
  if (process < 0)
    return "the emulated program has died before";
  waitpid(process, &status, 0);
  process = -1;
  if (WIFSIGNALED(status))
    return std::string("the emulated program died of: ") + strsignal(WTERMSIG(status));
  return "the emulated program ended with status " + std::to_string(WEXITSTATUS(status));
}

uint64_t Emulator::load(std::span<const char> code) {
  uint64_t address = 0;
  EmulatorRequest request;
  request.codeBytes = code.size();
  if (!send(&request, sizeof request) || !send(code.data(), code.size()) ||
      !receive(&address, sizeof address))
    return 0;
  return address;
}

uint32_t Emulator::run(uint64_t kernel, std::span<const Buffer> buffers, const RunFacts &facts,
                       std::string &death) {
  uint32_t faults = 0;
  EmulatorRequest request{0, kernel, buffers.size(), facts};
  bool alive = send(&request, sizeof request);
  for (const Buffer &buffer : buffers) {
    uint64_t bytes = buffer.bytes;
    alive = alive && send(&bytes, sizeof bytes) && send(buffer.data, buffer.bytes);
  }
  alive = alive && receive(&faults, sizeof faults);
  for (const Buffer &buffer : buffers)
    alive = alive && receive(buffer.data, buffer.bytes);
  if (!alive)
    death = waitForEnd();
  return faults;
}

} // namespace moe::codegen
