// moe-serve batch: answers the requests of a file, without any socket.
#ifndef MOE_TOOLS_MOE_SERVE_BATCH_H
#define MOE_TOOLS_MOE_SERVE_BATCH_H

#include "tools/moe-serve/Options.h"

namespace moe {

struct BatchCommand {
  std::string input, output; // see runtime/server/api/Batch.h
  ServeOptions models;       // of these, what concerns models
};

// Loads the plans and works the file off, with a bar where people watch and a summary on stderr.
// The exit status: 0 where each line has an answer, 130 after Ctrl-C (143 after SIGTERM), after
// which the same command goes on; a second one ends at once. Errors: of plans, files and lines, and
// of a device that has failed.
Result<int> runBatch(const BatchCommand &command, const std::string &version);

} // namespace moe

#endif
