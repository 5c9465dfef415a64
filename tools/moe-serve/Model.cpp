#include "tools/moe-serve/Model.h"

#include "runtime/session/Generate.h"
#include "runtime/session/PlanPrograms.h"
#include "runtime/session/PlanText.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace moe {

using namespace server;

namespace {

std::string hexadecimal(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", (unsigned long long)value);
  return text;
}

} // namespace

Result<std::shared_ptr<Model>> Model::create(const NamedPlan &plan, const ServeOptions &options,
                                             Post post,
                                             std::shared_ptr<KvEventPublisher> publisher) {
  std::shared_ptr<Model> model(new Model(plan, std::move(publisher)));
  if (Status opened = model->open(options, std::move(post)); !opened)
    return Error{opened.error().code, "model '" + plan.name + "': " + opened.error().message};
  return model;
}

Status Model::open(const ServeOptions &options, Post post) {
  OpenOptions how;
  how.load = options.load == "read" ? OpenOptions::Load::Read : OpenOptions::Load::Map;
  MOE_ASSIGN(opened, Plan::open(named.path, how));
  file = std::move(opened);
  hash = hexadecimal(file->hash());
  stopTokens = stopTokensOf(*file);
  MOE_TRY(makeText());

  SessionOptions session;
  session.device = options.device;
  session.threads = options.threads;
  session.numa = cpu::numaNamed(options.numa).value_or(cpu::Numa::Auto);
  session.context = options.context;
  session.maxStep = options.maxStep;
  session.maxSequences = options.maxSequences;
  session.prefixCache = options.prefixCache;
  session.cacheBudget = options.kvMemory;
  session.cacheShare = 0.9;
  MOE_ASSIGN(made, Session::create(*file, session));
  target = made.description();
  for (const CachePool &pool : devicePlan(*file, made.planDevice()).pools)
    pools.push_back(pool.name);

  if (publisher)
    made.setPageObserver([this](const PageEvent &event) {
      events.push_back({event.stored, event.hash, event.parent,
                        std::vector<int32_t>(event.tokens.begin(), event.tokens.end())});
    });
  metrics = std::make_unique<EngineMetrics>(made.context(), [this] {
    if (publisher)
      publisher->publish(events);
    events.clear();
  });
  Engine::Deliver deliver = [post = std::move(post)](std::vector<Engine::Delivery> events) {
    post([events = std::move(events)]() mutable {
      for (Engine::Delivery &delivery : events)
        delivery.sink->onEvent(std::move(delivery.event));
    });
  };
  MOE_ASSIGN(engine, Engine::create(std::move(made), tokenizer ? &*tokenizer : nullptr,
                                    options.engine, std::move(deliver), metrics.get()));
  running = std::move(engine);
  if (tokenizer && GrammarCompiler::available()) {
    MOE_ASSIGN(compiler, GrammarCompiler::create(*tokenizer, running->vocab(), stopTokens));
    grammars = std::move(compiler);
  }
  return ok();
}

// The tokenizer, and the layout of conversations whose ends are ends of a text too.
Status Model::makeText() {
  MOE_ASSIGN(made, planTokenizer(*file));
  tokenizer = std::move(made);
  const std::optional<ChatFormat> format = planChatFormat(*file);
  if (!tokenizer || !format)
    return ok();
  MOE_ASSIGN(layout, ChatTemplate::create(*tokenizer, *format));
  for (const int32_t id : layout.stopTokens())
    if (std::find(stopTokens.begin(), stopTokens.end(), id) == stopTokens.end())
      stopTokens.push_back(id);
  chat = std::move(layout);
  return ok();
}

std::shared_ptr<const api::ServedModel> Model::served(const std::shared_ptr<Model> &model,
                                                      const ServeOptions &options) {
  auto served = std::make_shared<api::ServedModel>();
  served->name = model->named.name;
  served->aliases = model->named.aliases;
  served->hash = model->hash;
  served->created = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  // Pointers into the model that keep it.
  if (model->tokenizer)
    served->tokenizer = {model, &*model->tokenizer};
  if (model->chat)
    served->chat = {model, &*model->chat};
  served->grammars = model->grammars;
  served->stopTokens = model->stopTokens;
  served->sampling.temperature = 1; // what clients of OpenAI expect
  if (options.sampling == "model")
    served->sampling = planSampling(*model->file).value_or(served->sampling);
  served->generator = {model, &*model->running};
  return served;
}

ModelFigures Model::figures() const {
  return {named.name, target, hash, running->stats(), pools, metrics.get()};
}

} // namespace moe
