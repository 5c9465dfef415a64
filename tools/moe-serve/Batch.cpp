#include "tools/moe-serve/Batch.h"

#include "runtime/server/api/Batch.h"
#include "tools/Terminal.h"
#include "tools/moe-serve/Model.h"

#include <atomic>
#include <csignal>
#include <cstdio>

namespace moe {

using namespace server;

namespace {

std::atomic<int> interruption{0}; // the signal

void interruptOn(int signal) {
  struct sigaction action = {};
  action.sa_handler = [](int number) { interruption = number; };
  action.sa_flags = int(SA_RESETHAND); // the second one ends at once
  sigaction(signal, &action, nullptr);
}

// Nobody waits for a line, so that time is no reason to refuse one, and steps are filled.
ServeOptions forThroughput(ServeOptions options, size_t parallel) {
  options.engine.maxWaiting = int32_t(parallel);
  options.engine.maxQueue = std::chrono::hours(24 * 365);
  options.engine.itlStretch = 0;
  return options;
}

// All that answers, in the order in which it may be destroyed: from the last to the first.
struct Batch {
  api::CallQueue queue;
  std::vector<std::shared_ptr<Model>> loaded;
  std::shared_ptr<api::Models> models = std::make_shared<api::Models>();
  std::unique_ptr<api::Api> api;

  ~Batch() {
    api.reset();
    models.reset();
    while (queue.runOne(std::chrono::milliseconds(0))) // what was posted keeps models alive
      ;
  }

  Status load(const ServeOptions &options, const std::string &version) {
    MOE_ASSIGN(plans, namedPlans(options.plans, options.aliases));
    for (const NamedPlan &plan : plans) {
      if (interruption)
        break;
      MOE_ASSIGN(model, Model::create(plan, options, [this](std::function<void()> call) {
                   queue.post(std::move(call));
                 }));
      models->put(Model::served(model, options));
      loaded.push_back(std::move(model));
    }
    api::ApiOptions answers;
    answers.version = version;
    answers.post = [this](std::function<void()> call) { queue.post(std::move(call)); };
    api = std::make_unique<api::Api>(std::move(answers), models);
    return ok();
  }

  std::optional<Error> failure() const {
    for (const std::shared_ptr<Model> &model : loaded)
      if (std::optional<Error> error = model->engine().failure())
        return Error{error->code, "model '" + model->plan().name +
                                      "' has failed: " + error->message +
                                      "; the same command goes on with what is left"};
    return std::nullopt;
  }
  int64_t tokens() const {
    int64_t sum = 0;
    for (const std::shared_ptr<Model> &model : loaded)
      sum += model->engine().stats().generatedTokens;
    return sum;
  }
};

} // namespace

Result<int> runBatch(const BatchCommand &command, const std::string &version) {
  interruptOn(SIGINT);
  interruptOn(SIGTERM);
  api::BatchOptions options;
  options.input = command.input;
  options.output = command.output;
  options.parallel = 2 * size_t(command.models.maxSequences); // one waits for each that runs

  Batch batch;
  MOE_TRY(batch.load(forThroughput(command.models, options.parallel), version));
  ProgressBar bar;
  options.interrupted = [&] { return interruption != 0 || batch.failure(); };
  options.progress = [&](int64_t done, int64_t all) {
    bar.show(uint64_t(done), uint64_t(all),
             std::to_string(done) + " of " + std::to_string(all) + " requests");
  };
  const Clock::time_point began = Clock::now();
  const auto result = api::runBatch(*batch.api, batch.queue, options);
  const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
  bar.clear();
  MOE_TRY(result);
  std::fprintf(stderr,
               "moe-serve: %lld of %lld requests answered, %lld refused, %lld were there already; "
               "%.1f s, %.0f tokens/s\n",
               (long long)result->answered, (long long)result->lines, (long long)result->failed,
               (long long)result->skipped, seconds, double(batch.tokens()) / seconds);
  if (const std::optional<Error> failure = batch.failure())
    return *failure;
  if (!result->interrupted)
    return 0;
  std::fprintf(stderr, "moe-serve: interrupted; the same command goes on\n");
  return 128 + interruption;
}

} // namespace moe
