// What moe-media gives up before it looks at a file of a stranger.
#ifndef MOE_TOOLS_MOE_MEDIA_SANDBOX_H
#define MOE_TOOLS_MOE_MEDIA_SANDBOX_H

#include "runtime/Status.h"

#include <string>

namespace moe {

// Whether this build has AddressSanitizer, whose own calls and shadow memory need what the sandbox
// forbids: then there is none.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kIsSanitized = true;
#elif defined(__has_feature)
inline constexpr bool kIsSanitized = __has_feature(address_sanitizer);
#else
inline constexpr bool kIsSanitized = false;
#endif

// For a decoder in this process: memory of 1 GB, 10 s of a processor, no descriptors but the three
// it has, and no system calls but to read, write, take memory and end. Whatever else it calls kills
// it.
Status enterDecoderSandbox();

// For another program that this process is about to become: 3 GB, two minutes of processors, no
// file that it could write or change, no network, no other processes. It may read what `program`
// needs to start: the system's libraries, and those in folders beside it.
Status enterProgramSandbox(const std::string &program);

} // namespace moe

#endif
