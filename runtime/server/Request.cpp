// Names of what a request ends with.
#include "runtime/server/Request.h"

namespace moe::server {

const char *finishName(Finish finish) {
  switch (finish) {
  case Finish::StopToken:
    return "stop_token";
  case Finish::StopString:
    return "stop_string";
  case Finish::Length:
    return "length";
  case Finish::Grammar:
    return "grammar";
  case Finish::Cancelled:
    return "cancelled";
  case Finish::Deadline:
    return "deadline";
  case Finish::QueueDeadline:
    return "queue_deadline";
  case Finish::Failed:
    return "failed";
  }
  return "";
}

} // namespace moe::server
