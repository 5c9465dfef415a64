// Carries out instructions that this machine's processor does not have, so that tests run the
// kernels that are made of them: each one traps, and the handler does its work by the pseudocode of
// Intel's manual on the registers that the trap saved.
#ifndef MOE_COMPILER_TARGETS_CPU_TESTINSTRUCTIONS_H
#define MOE_COMPILER_TARGETS_CPU_TESTINSTRUCTIONS_H

#include <csignal>
#include <span>
#include <string>
#include <string_view>

namespace moe::codegen {

class EmulatedInstructions {
public:
  // The features, as plans name them, whose instructions can be emulated. Of each only those that
  // kernels have.
  static std::span<const std::string_view> features();

  // What this machine lacks for it; empty where it can emulate.
  static std::string missing();

  // Whether this thread's tiles of AMX are configured and not released.
  static bool holdTiles();

  // Emulates from here on until it is destroyed, in all threads, where nothing else takes the
  // signal for itself (as the linker does that makes images). An instruction that neither the
  // processor has nor this knows ends the process, with a message.
  EmulatedInstructions();
  ~EmulatedInstructions();
  EmulatedInstructions(const EmulatedInstructions &) = delete;
  EmulatedInstructions &operator=(const EmulatedInstructions &) = delete;

private:
  struct sigaction before;
};

} // namespace moe::codegen

#endif
