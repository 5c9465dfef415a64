// moe-serve: serves plans to the clients of OpenAI's and Anthropic's APIs.
#include "tools/moe-serve/Batch.h"
#include "tools/moe-serve/Service.h"

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>

using namespace moe;

namespace {

// The option's text as bytes.
CLI::Option *addBytes(CLI::App &app, const char *name, uint64_t &bytes, const char *help) {
  return app
      .add_option_function<std::string>(
          name,
          [&bytes, name](const std::string &text) {
            const Result<uint64_t> read = parseBytes(text);
            if (!read)
              throw CLI::ValidationError(name, read.error().message);
            bytes = *read;
          },
          help)
      ->type_name("BYTES");
}

// NaN is in no range, and outside of none.
CLI::Validator secondsFrom(double low) {
  return CLI::Validator(
      [low](const std::string &text) {
        double seconds = 0;
        if (CLI::detail::lexical_cast(text, seconds) && seconds >= low && seconds <= 1e6)
          return std::string();
        char wanted[64];
        std::snprintf(wanted, sizeof wanted, "', expected seconds, %g to 1e6", low);
        return "found '" + text + wanted;
      },
      "SECONDS");
}

// Steps with prompts are no shorter than those without.
CLI::Validator stretch() {
  return CLI::Validator(
      [](const std::string &text) {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && (value == 0 || (value >= 1 && value <= 1000)))
          return std::string();
        return "found '" + text + "', expected 0 or a factor from 1 to 1000";
      },
      "FACTOR");
}

template <typename Duration>
CLI::Option *addSeconds(CLI::App &app, const char *name, Duration &duration, const char *help) {
  return app
      .add_option_function<double>(
          name,
          [&duration](const double &seconds) {
            duration = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
          },
          help)
      ->check(secondsFrom(0.001))
      ->type_name("");
}

void addModels(CLI::App &app, ServeOptions &o) {
  app.add_option("plans", o.plans, "plans made by moec compile; the first is the default")
      ->type_name("[NAME=]PLAN");
  app.add_option("--alias", o.aliases, "another name of a model, ALIAS=NAME; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--device", o.device, "auto, cuda, cuda:N, cpu or ptxsim")->capture_default_str();
  app.add_option("--threads", o.threads, "threads of a CPU (default: one for each core)")
      ->check(CLI::Range(1, 4096));
  app.add_option("--numa", o.numa, "where weights lie on a machine with several memory nodes")
      ->check(CLI::IsMember({"auto", "off", "interleave", "replicate"}))
      ->capture_default_str();
  app.add_option("--load", o.load, "map the plan's file, or read it into memory")
      ->check(CLI::IsMember({"map", "read"}))
      ->capture_default_str();
  app.add_option("--context", o.context,
                 "tokens of a prompt and its answer (default: what the plan allows, up to 4096)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 40));
  app.add_option("--max-sequences", o.maxSequences, "answers that are generated side by side")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--max-step", o.maxStep, "most tokens of a step (default: the plan's largest)")
      ->check(CLI::Range(1, 1 << 20));
  addBytes(app, "--kv-memory", o.kvMemory,
           "of keys and values, for each model (default: half of the system's available memory, or "
           "nine tenths of what weights leave on a GPU, but at most twice what the sequences can "
           "need)");
  app.add_flag("!--no-prefix-cache", o.prefixCache, "compute each prompt from its start");
  app.add_flag("--share-prefixes", o.sharePrefixes,
               "share beginnings of prompts among API keys, which can tell by the time what others "
               "have asked");
  app.add_option("--draft-tokens", o.engine.drafts,
                 "tokens to guess from what was said before, and to check together (0: none)")
      ->check(CLI::Range(0, 16))
      ->capture_default_str();
  app.add_option("--sampling", o.sampling,
                 "where a request does not say: model, as the checkpoint has it, or openai, "
                 "temperature 1; also where the checkpoint says nothing")
      ->check(CLI::IsMember({"model", "openai"}))
      ->capture_default_str();
}

void addScheduling(CLI::App &app, ServeOptions &o) {
  app.add_option("--itl-stretch", o.engine.itlStretch,
                 "how much longer a step may take because of prompts in it; 0: prompts first")
      ->check(stretch())
      ->type_name("")
      ->capture_default_str();
  app.add_option("--prompt-share", o.engine.promptShare,
                 "prompts get this part of the rate that they would have alone, even where steps "
                 "become longer than that; 0: the stretch alone counts")
      ->check(CLI::Range(0.0, 1.0))
      ->default_str("1/3");
  app.add_option("--max-waiting", o.engine.maxWaiting, "requests that wait; beyond it 429")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  addSeconds(app, "--max-queue-seconds", o.engine.maxQueue, "how long one waits; then 503");
  app.add_option("--max-per-key", o.engine.maxPerKey, "requests of an API key that run (0: all)")
      ->check(CLI::Range(0, 1 << 20));
}

void addSockets(CLI::App &app, ServeOptions &o) {
  server::http::Limits &limits = o.http.limits;
  app.add_option("--host", o.http.host, "address to listen at")->capture_default_str();
  app.add_option("--port", o.http.port, "0: any that is free")->capture_default_str();
  app.add_option("--tls-certificate", o.http.certificate, "PEM file; with --tls-key");
  app.add_option("--tls-key", o.http.privateKey, "PEM file");
  app.add_option("--api-key-file", o.keyFile,
                 "lines NAME:KEY, readable by its owner alone; without it everybody may ask");
  app.add_option("--cors-origin", o.http.corsOrigins,
                 "web pages that may ask, https://chat.example or *; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--admin-socket", o.adminSocket,
                 "a socket in the file system with POST /admin/reload and /admin/drain");
  app.add_flag("!--no-ui", o.ui, "no chat page at /");
  addBytes(app, "--max-body", limits.body, "of a request");
  addBytes(app, "--max-header", limits.header, "of a request's header");
  app.add_option("--max-connections", limits.connections, "open at a time")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-per-address", limits.perAddress, "of them from one address")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  addSeconds(app, "--header-seconds", limits.headerTime, "for a request's header to arrive");
  addSeconds(app, "--body-seconds", limits.bodyTime, "for its body");
  addSeconds(app, "--idle-seconds", limits.idleTime, "between two requests of a connection");
  addSeconds(app, "--write-seconds", limits.writeTime, "that a reader may take nothing");
  app.add_option("--drain-grace", o.drainGrace,
                 "seconds after SIGTERM that the listener stays open")
      ->check(secondsFrom(0))
      ->type_name("")
      ->capture_default_str();
  app.add_option("--drain-seconds", o.drainSeconds,
                 "seconds after it that requests may take to end")
      ->check(secondsFrom(0))
      ->type_name("")
      ->capture_default_str();
}

void addEvents(CLI::App &app, ServeOptions &o) {
  app.add_option("--kv-events", o.kvEvents.endpoint,
                 "publish what the prefix cache holds, for routers: tcp://127.0.0.1:5557");
  app.add_option("--kv-events-replay", o.kvEvents.replayEndpoint,
                 "where events can be asked for again");
  app.add_option("--kv-events-topic", o.kvEvents.topic, "of the events");
  const std::map<std::string, server::KvEncoding> encodings{{"map", server::KvEncoding::Map},
                                                            {"array", server::KvEncoding::Array}};
  app.add_option("--kv-events-encoding", o.kvEvents.encoding, "map, or array for older readers")
      ->transform(CLI::CheckedTransformer(encodings));
}

int report(const Error &error) {
  std::fprintf(stderr, "moe-serve: error: %s\n", error.message.c_str());
  return 1;
}

} // namespace

int main(int argc, char **argv) {
  CLI::App app(
      "Serves compiled Llama 4 plans to the clients of OpenAI's and Anthropic's APIs.\n\n"
      "  moe-serve cria.plan\n"
      "  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}'\n\n"
      "  moe-serve batch requests.jsonl -o answers.jsonl cria.plan\n",
      "moe-serve");
  app.set_version_flag("--version", "moe-serve " MOE_VERSION);
  ServeOptions options;
  addModels(app, options);
  addScheduling(app, options);
  addSockets(app, options);
  addEvents(app, options);
  app.require_subcommand(0, 1);

  BatchCommand batch;
  CLI::App *batchApp = app.add_subcommand(
      "batch",
      "answer the requests of a file in OpenAI's batch form; the same command goes on after "
      "an interruption");
  batchApp->add_option("requests", batch.input, "a JSON object a line")
      ->type_name("IN.jsonl")
      ->required();
  batchApp->add_option("-o,--output", batch.output, "the answers, in the order in which they come")
      ->type_name("OUT.jsonl")
      ->required();
  addModels(*batchApp, batch.models);
  batchApp->get_option("plans")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success &success) { // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError &error) {
    std::fprintf(stderr, "moe-serve: error: %s\n", error.what());
    return 2;
  }
  if (!*batchApp && options.plans.empty()) {
    std::fputs("moe-serve: error: which plan? moe-serve [NAME=]PLAN; --help says more\n", stderr);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN); // a full file is an error of write(), not the end of us
  if (*batchApp) {
    const Result<int> status = runBatch(batch, MOE_VERSION);
    return status ? *status : report(status.error());
  }
  auto service = Service::create(options, MOE_VERSION);
  if (!service)
    return report(service.error());
  return (*service)->run();
}
