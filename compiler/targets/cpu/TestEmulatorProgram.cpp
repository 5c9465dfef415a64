// Runs kernels on the processor that an emulator shows it, as a test on another processor asks over
// standard input, a socket. See EmulatorRequest.
#include "compiler/targets/cpu/TestWorkers.h"
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

using namespace moe;
using namespace moe::codegen;

namespace {

[[noreturn]] void fail(const char *what) {
  std::perror(what);
  std::exit(1);
}

// False at the end of the input.
bool receive(void *to, size_t bytes) {
  for (auto *at = static_cast<char *>(to); bytes > 0;) {
    ssize_t got = read(STDIN_FILENO, at, bytes);
    if (got < 0)
      fail("cannot read a request");
    if (got == 0)
      return false;
    at += got;
    bytes -= size_t(got);
  }
  return true;
}

void send(const void *from, size_t bytes) {
  for (auto *at = static_cast<const char *>(from); bytes > 0;) {
    ssize_t sent = write(STDIN_FILENO, at, bytes);
    if (sent <= 0)
      fail("cannot write an answer");
    at += sent;
    bytes -= size_t(sent);
  }
}

void load(size_t bytes) {
  void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    fail("cannot map code");
  if (!receive(at, bytes))
    fail("a request ends early");
  if (mprotect(at, bytes, PROT_READ | PROT_EXEC) != 0)
    fail("cannot make code executable");
  __builtin___clear_cache(static_cast<char *>(at), static_cast<char *>(at) + bytes);
  auto address = uint64_t(reinterpret_cast<uintptr_t>(at));
  send(&address, sizeof address);
}

void run(const EmulatorRequest &request) {
  // Each buffer lies at 64 bytes, as a runtime's do, and is followed by bytes that must stay.
  constexpr size_t unit = 64;
  constexpr std::byte guard{0xa5};
  struct Buffer {
    std::byte *data;
    uint64_t bytes;
  };
  std::vector<Buffer> buffers(request.operands);
  std::vector<void *> operands;
  for (Buffer &buffer : buffers) {
    if (!receive(&buffer.bytes, sizeof buffer.bytes))
      fail("a request ends early");
    size_t room = (buffer.bytes + unit - 1) / unit * unit + unit;
    buffer.data = static_cast<std::byte *>(std::aligned_alloc(unit, room));
    if (!buffer.data)
      fail("no memory for a buffer");
    std::memset(buffer.data + buffer.bytes, int(guard), room - buffer.bytes);
    if (!receive(buffer.data, buffer.bytes))
      fail("a request ends early");
    operands.push_back(buffer.data);
  }
  auto kernel = reinterpret_cast<cpu::Kernel>(uintptr_t(request.kernel));
  uint32_t faults = runWorkers(kernel, operands.data(), request.facts);
  for (const Buffer &buffer : buffers)
    for (size_t i = 0; i < unit; ++i)
      if (buffer.data[buffer.bytes + i] != guard)
        faults |= WrotePastOperand;
  send(&faults, sizeof faults);
  for (const Buffer &buffer : buffers) {
    send(buffer.data, buffer.bytes);
    std::free(buffer.data);
  }
}

} // namespace

int main() {
  for (EmulatorRequest request; receive(&request, sizeof request);)
    if (request.codeBytes > 0)
      load(request.codeBytes);
    else
      run(request);
}
