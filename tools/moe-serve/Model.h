// A plan that is served: all that it takes, from the file to the engine.
#ifndef MOE_TOOLS_MOE_SERVE_MODEL_H
#define MOE_TOOLS_MOE_SERVE_MODEL_H

#include "runtime/server/Metrics.h"
#include "runtime/server/api/Models.h"
#include "tools/moe-serve/Options.h"

namespace moe {

class Model {
public:
  // Runs a call on the thread that owns the answers. From any thread.
  using Post = std::function<void(std::function<void()>)>;

  // Opens the plan and starts its engine, whose events are told by `post`. What its prefix cache
  // holds goes to the publisher, if there is one, which models share: a plan that takes another's
  // place is there before that one is gone.
  static Result<std::shared_ptr<Model>>
  create(const NamedPlan &plan, const ServeOptions &options, Post post,
         std::shared_ptr<server::KvEventPublisher> publisher = nullptr);

  // What answers need of it; the model lives as long as that does.
  static std::shared_ptr<const server::api::ServedModel> served(const std::shared_ptr<Model> &model,
                                                                const ServeOptions &options);

  const NamedPlan &plan() const { return named; }
  server::Engine &engine() { return *running; }
  server::ModelFigures figures() const;
  const std::string &description() const { return target; }

private:
  Model(NamedPlan plan, std::shared_ptr<server::KvEventPublisher> publisher)
      : named(std::move(plan)), publisher(std::move(publisher)) {}
  Status open(const ServeOptions &options, Post post);
  Status makeText();

  NamedPlan named;
  std::string hash, target;
  std::vector<std::string> pools;
  std::vector<int32_t> stopTokens;
  std::optional<Plan> file;
  std::optional<Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat;
  std::shared_ptr<server::GrammarCompiler> grammars;
  std::shared_ptr<server::KvEventPublisher> publisher;
  std::vector<server::KvEvent> events; // of the step that runs, on the engine's thread
  std::unique_ptr<server::EngineMetrics> metrics;
  std::unique_ptr<server::Engine> running; // last: it uses the others
};

} // namespace moe

#endif
