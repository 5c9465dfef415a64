// The options that shaped a plan, as its provenance tells them.
#ifndef MOE_COMPILER_PROVENANCE_H
#define MOE_COMPILER_PROVENANCE_H

#include "compiler/Compiler.h"

namespace moe {

// "--target cpu:x86-64-v4 --weights int4": what differs from the defaults, in a fixed order and
// however it was spelled. Paths and --jobs shape nothing and are left out. Adapters and texts are
// named by what they hold, "xxh3:" and 16 digits as `xxhsum -H3` prints them (of an adapter
// adapter_config.json, then adapter_model.safetensors), so that plans do not differ by where these
// lay. Error: one of these cannot be read.
llvm::Expected<std::string> shapingOptions(const CompileOptions &options);

} // namespace moe

#endif
