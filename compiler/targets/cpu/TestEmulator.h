// Runs kernels for a processor that is not the machine's own: a test hands code and buffers to a
// program under qemu-user, and gets the buffers back.
#ifndef MOE_COMPILER_TARGETS_CPU_TESTEMULATOR_H
#define MOE_COMPILER_TARGETS_CPU_TESTEMULATOR_H

#include "compiler/targets/cpu/TestWorkers.h"
#include <memory>
#include <span>
#include <string>
#include <sys/types.h>
#include <type_traits>
#include <vector>

namespace moe::codegen {

// A buffer that a kernel is given: all of a vector, or what of it begins `skip` bytes after its
// start. The vector must outlive it.
struct Buffer {
  template <class T>
    requires(std::is_arithmetic_v<T> || std::is_same_v<T, std::byte>)
  Buffer(std::vector<T> &all, size_t skip = 0)
      : data(reinterpret_cast<std::byte *>(all.data()) + skip),
        bytes(all.size() * sizeof(T) - skip) {}

  std::byte *data;
  size_t bytes;
};

class Emulator {
public:
  // An emulated 64-bit Arm processor, one of qemu's -cpu, or nothing and, in `missing`, what this
  // machine lacks. By default it has all that the emulator knows.
  static std::unique_ptr<Emulator> aarch64(std::string &missing, std::string processor = "max");
  ~Emulator();
  Emulator(const Emulator &) = delete;
  Emulator &operator=(const Emulator &) = delete;

  // The address of the code in the emulated program; 0 where that has died.
  uint64_t load(std::span<const char> code);
  // As runWorkers, with the kernel at that address. The buffers must not overlap. Where the program
  // died, for example at an instruction that the processor does not have, `death` says how.
  uint32_t run(uint64_t kernel, std::span<const Buffer> buffers, const RunFacts &facts,
               std::string &death);

private:
  Emulator(pid_t process, int socket) : process(process), socket(socket) {}
  bool send(const void *from, size_t bytes);
  bool receive(void *to, size_t bytes);
  std::string waitForEnd();

  pid_t process; // -1 once it has ended
  int socket;
};

} // namespace moe::codegen

#endif
