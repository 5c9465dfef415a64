// PTX text to a Module. The text is untrusted: whatever it holds, the answer is a module that can
// run or an error that names a line.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_PARSER_H
#define MOE_RUNTIME_DEVICE_PTXSIM_PARSER_H

#include "runtime/Status.h"
#include "runtime/device/ptxsim/Module.h"

#include <string_view>

namespace moe::ptxsim {

Result<Module> parse(std::string_view text);

} // namespace moe::ptxsim

#endif
