// What moe-serve is told on its command line.
#ifndef MOE_TOOLS_MOE_SERVE_OPTIONS_H
#define MOE_TOOLS_MOE_SERVE_OPTIONS_H

#include "runtime/server/Engine.h"
#include "runtime/server/KvEvents.h"
#include "runtime/server/http/Server.h"

#include <string>
#include <vector>

namespace moe {

struct ServeOptions {
  // NAME=PATH, or a path whose file name without .plan is the name. The first is the default.
  std::vector<std::string> plans;
  std::vector<std::string> aliases; // ALIAS=NAME

  // Of each model's session.
  std::string device = "auto", numa = "auto", load = "map";
  int threads = 0;
  int64_t context = 0;
  int32_t maxSequences = 64;
  int32_t maxStep = 0;
  uint64_t kvMemory = 0; // bytes; 0: a part of what is available, see --help
  bool prefixCache = true, sharePrefixes = false;

  server::EngineLimits engine;
  server::http::Options http;
  std::string adminSocket;
  std::string keyFile;
  std::string sampling = "model"; // or "openai"
  double drainGrace = 5, drainSeconds = 30;
  bool ui = true;
  server::KvEventOptions kvEvents; // endpoint empty: none
};

// "512", "64K", "1.5M", "8G" as bytes.
Result<uint64_t> parseBytes(const std::string &text);

struct NamedPlan {
  std::string name, path;
  std::vector<std::string> aliases;
};
// Errors: InvalidArgument for an empty name or path, a name that is there twice, and an alias that
// is none of a plan.
Result<std::vector<NamedPlan>> namedPlans(const std::vector<std::string> &plans,
                                          const std::vector<std::string> &aliases = {});

} // namespace moe

#endif
