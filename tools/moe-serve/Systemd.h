// Telling a service manager how a server is: sd_notify(3), without its library.
#ifndef MOE_TOOLS_MOE_SERVE_SYSTEMD_H
#define MOE_TOOLS_MOE_SERVE_SYSTEMD_H

#include "runtime/Status.h"

#include <string_view>

namespace moe {

// Sends `state` ("READY=1", lines as sd_notify has them) to the socket that NOTIFY_SOCKET names: a
// path, or with @ an abstract name. Does nothing where the variable is not set. Error: IoError.
Status notifySystemd(std::string_view state);

} // namespace moe

#endif
