// The table of targets.
#ifndef MOE_COMPILER_TARGETS_TARGETS_H
#define MOE_COMPILER_TARGETS_TARGETS_H

#include "compiler/targets/Target.h"
#include <vector>

namespace moe {

// Whose versions a plan is for where none are named.
inline constexpr llvm::StringLiteral kDefaultTarget = "cpu";

using Targets = std::vector<std::unique_ptr<Target>>; // best first

// The targets of names such as "cpu:x86-64-v4" or "cuda:sm_90a", each with its versions; of no
// names all CPUs. An unknown name is an error that lists those that there are.
llvm::Expected<Targets> chooseTargets(llvm::ArrayRef<std::string> names,
                                      const TargetOptions &options);

// All of them, without a version.
Targets allTargets(const TargetOptions &options = {});

// For passes that are run by name; null where there is no such target.
const TargetFormats *findTargetFormats(llvm::StringRef name);

} // namespace moe

#endif
