// Runs another program on some bytes, within a time, and without a file, a name or a shell.
#ifndef MOE_RUNTIME_VISION_CHILDPROCESS_H
#define MOE_RUNTIME_VISION_CHILDPROCESS_H

#include "runtime/Status.h"

#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace moe {

struct ChildEnd {
  enum class How {
    Exited,   // `value`: its status
    Signaled, // `value`: the signal
    TooLate,  // it was killed at the deadline
    Stopped,  // it was killed since `take` wanted no more
  } how = How::Exited;
  int value = 0;
  std::string said; // the beginning of its standard error, without white space at the ends
};

// Starts `program` (a path) with `arguments` and an empty environment, and waits for its end. Its
// standard input is `input`, as a file in memory in which it can seek; `take` gets what it writes,
// and says whether it wants more. Nothing of the child is left afterwards. May be called by several
// threads at a time. Error: IoError, Unavailable if there is no such program.
Result<ChildEnd> runChild(const std::string &program, const std::vector<std::string> &arguments,
                          std::span<const std::byte> input, std::chrono::milliseconds deadline,
                          const std::function<bool(std::span<const std::byte>)> &take);

// How it ended, for a sentence: "exited with status 1", "died of signal 11 (Segmentation fault)".
std::string describe(const ChildEnd &end);

} // namespace moe

#endif
