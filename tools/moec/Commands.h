// The commands of moec and what they share.
#ifndef MOE_TOOLS_MOEC_COMMANDS_H
#define MOE_TOOLS_MOEC_COMMANDS_H

#include "compiler/Compiler.h"

namespace moe {

struct InspectOptions {
  std::string plan;
  bool verify = false;                    // the hash of each section, weights included
  bool tensors = false, programs = false; // list them one by one
};

// Each returns the exit status, and has printed what went wrong.
int runCompile(CompileOptions options);
int runInspect(const InspectOptions &options);

// What they return for an error, once it is printed.
inline int fail(const llvm::Twine &message) {
  llvm::errs() << "moec: error: " << message << "\n";
  return 1;
}

} // namespace moe

#endif
