// Works off a file of requests in OpenAI's batch form, a line each, without any socket.
//
//   {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
//   {"id": "batch_req_...", "custom_id": "1", "response": {"status_code": 200, "request_id": "...",
//    "body": {...}}, "error": null}
#ifndef MOE_RUNTIME_SERVER_API_BATCH_H
#define MOE_RUNTIME_SERVER_API_BATCH_H

#include "runtime/server/api/Api.h"
#include "runtime/server/api/CallQueue.h"

namespace moe::server::api {

struct BatchOptions {
  std::string input, output;
  size_t parallel = 64;              // requests at a time; fewer than the generator lets wait
  std::function<bool()> interrupted; // null: never. Asked at least every 0.1 s
  std::function<void(int64_t done, int64_t all)> progress; // null: none
};

struct BatchResult {
  int64_t lines = 0;    // of the input
  int64_t skipped = 0;  // that the output had already
  int64_t answered = 0; // now, with status 200
  int64_t failed = 0;   // now, with another
  bool interrupted = false;
};

// Appends an answer for each line that has none, in the order in which they come. `queue` is where
// the API and the generator post to. After an interruption the same call goes on: answers are
// written whole, and half a line at the output's end, of a process that was killed, is cut off.
// Errors: InvalidArgument with the number of a line of either file that is none of this form or has
// the id of another, before anything is asked, and for an output that is the input; IoError.
Result<BatchResult> runBatch(Api &api, CallQueue &queue, const BatchOptions &options);

} // namespace moe::server::api

#endif
