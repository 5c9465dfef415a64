// bench-probe: what this machine can do right now, on request. Between requests it sleeps, so that
// it can wait beside a benchmark; its memory and threads are ready, so that a probe takes some tens
// of milliseconds.
#include "runtime/device/cpu/Processors.h"
#include "runtime/device/cpu/ThreadPool.h"
#include "tools/bench/probe/PeakArithmetic.h"
#include "tools/bench/probe/PingPong.h"
#include "tools/moe-run/Output.h"
#include "tools/moe-run/ReadBandwidth.h"

#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <sstream>

using namespace moe;

namespace {

constexpr const char *kHelp =
    "bench-probe: answers each line of standard input with one line of JSON\n\n"
    "  read THREADS                bytes per second that so many threads read from memory\n"
    "  arithmetic TYPE THREADS     operations per second of fp32, bf16 or int8, and the "
    "instruction\n"
    "  ping-pong                   nanoseconds for a value from one processor to another\n\n"
    "What the machine does not have is null; what is not understood is {\"error\": ...}.\n";

JsonObject failure(const std::string &message) {
  JsonObject json;
  json.add("error", message);
  return json;
}

class Probes {
public:
  JsonObject answer(const std::string &line) {
    std::istringstream words(line);
    std::string command, type, excess;
    int threads = 1;
    words >> command;
    if (command == "arithmetic")
      words >> type;
    if (command == "read" || command == "arithmetic")
      words >> threads;
    if (!words || (words >> excess))
      return failure("'" + line + "' is not understood; bench-probe --help lists the requests");
    if (threads < 1 || threads > most)
      return failure(std::to_string(threads) + " threads: this process may use 1 to " +
                     std::to_string(most));
    if (command == "read")
      return read(threads);
    if (command == "arithmetic")
      return arithmetic(type, threads);
    if (command == "ping-pong")
      return pingPong();
    return failure("'" + line + "' is not understood; bench-probe --help lists the requests");
  }

private:
  JsonObject read(int threads) {
    std::unique_ptr<ReadBandwidth> &probe = reads[threads];
    if (!probe)
      probe = ReadBandwidth::create(threads);
    if (!probe)
      return failure("no memory or no threads for the bandwidth probe");
    JsonObject json;
    json.add("threads", int64_t(threads));
    json.add("bytes_per_second", probe->measure());
    return json;
  }

  JsonObject arithmetic(const std::string &type, int threads) {
    if (type != "fp32" && type != "bf16" && type != "int8")
      return failure("arithmetic on '" + type + "': there is fp32, bf16 and int8");
    const PeakArithmetic *peak = peakArithmetic(type);
    double rate = peak ? measure(*peak, threads) : 0;
    if (peak && rate == 0)
      return failure("the system does not give " + std::to_string(threads) + " threads");
    JsonObject json;
    json.add("type", type);
    json.add("threads", int64_t(threads));
    json.add("instruction", peak ? peak->instruction : "none");
    json.add("operations_per_second", peak ? rate : 0.0 / 0.0);
    return json;
  }

  JsonObject pingPong() {
    JsonObject json;
    json.add("one_way_nanoseconds", pingPongNanoseconds().value_or(0.0 / 0.0));
    return json;
  }

  const int most = int(cpu::allowedProcessors().size());
  std::map<int, std::unique_ptr<ReadBandwidth>> reads; // by threads
};

} // namespace

int main(int argc, char **argv) {
  if (argc > 1) {
    const bool help = !std::strcmp(argv[1], "--help") || !std::strcmp(argv[1], "-h");
    std::fputs(help ? kHelp : "bench-probe: error: requests come on standard input; see --help\n",
               help ? stdout : stderr);
    return help ? 0 : 2;
  }
  Probes probes;
  for (std::string line; std::getline(std::cin, line);)
    if (Status printed = print(probes.answer(line).text() + "\n"); !printed) {
      std::fprintf(stderr, "bench-probe: error: %s\n", printed.error().message.c_str());
      return 1;
    }
  return 0;
}
