#include "runtime/server/TestEngine.h"

#include "runtime/session/Pooling.h"
#include "runtime/text/TestVocabulary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace moe::server {
namespace {

using namespace std::chrono_literals;

EngineLimits unmeasured() {
  EngineLimits limits;
  limits.measure = 0ms;
  return limits;
}

std::unique_ptr<Engine> engineOn(Session session, const EngineLimits &limits = unmeasured(),
                                 const Tokenizer *tokenizer = nullptr,
                                 EngineObserver *observer = nullptr) {
  auto engine = Engine::create(std::move(session), tokenizer, limits, deliverAtOnce, observer);
  EXPECT_TRUE(engine);
  return std::move(*engine);
}

SessionOptions options(int32_t sequences = 8, uint64_t budget = 0, bool prefixes = true) {
  SessionOptions result;
  result.maxSequences = sequences;
  result.context = 600;
  result.cacheBudget = budget;
  result.prefixCache = prefixes;
  return result;
}

RequestId accepted(const std::variant<RequestId, Refusal> &answer) {
  if (const auto *refusal = std::get_if<Refusal>(&answer)) {
    ADD_FAILURE() << refusal->error.message;
    return 0;
  }
  return std::get<RequestId>(answer);
}

Refusal refused(std::variant<RequestId, Refusal> answer) {
  if (auto *refusal = std::get_if<Refusal>(&answer))
    return *refusal;
  ADD_FAILURE() << "the request was taken";
  return {};
}

void expectNothingHeld(const Engine &engine) {
  const auto start = Clock::now();
  while (!engine.idle() && Clock::now() - start < 20s)
    std::this_thread::sleep_for(1ms);
  ASSERT_TRUE(engine.idle());
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.waitingTokens, 0);
  for (const EngineStats::Pool &pool : stats.pools) {
    EXPECT_EQ(pool.held, 0);
    EXPECT_EQ(pool.free + pool.cached, pool.pages);
  }
}

// What a choice gets when nobody else is there: a loop of its own over a session of its own.
struct Alone {
  std::vector<int32_t> tokens;
  Finish finish;
};
Alone alone(const Request &request, int32_t choice,
            Result<Session> session = fakeSession(fakeModel(), options(1))) {
  EXPECT_TRUE(session);
  SamplerOptions sampling = request.sampling;
  sampling.seed += uint64_t(choice);
  auto sampler = Sampler::create(sampling, session->vocab());
  EXPECT_TRUE(sampler);
  for (int32_t token : request.prompt)
    sampler->observePrompt(token);
  const int32_t sequence = *session->addSequence();
  Alone result{{}, Finish::Length};
  std::vector<int32_t> next = request.prompt;
  while (int64_t(result.tokens.size()) != request.maxTokens &&
         session->length(sequence) < session->context()) {
    sampler->forbid(int64_t(result.tokens.size()) < request.minTokens
                        ? std::span<const int32_t>(request.stopTokens)
                        : std::span<const int32_t>());
    next = {*session->sample(sequence, next, *sampler)};
    sampler->observe(next[0]);
    result.tokens.push_back(next[0]);
    if (std::count(request.stopTokens.begin(), request.stopTokens.end(), next[0])) {
      result.finish = Finish::StopToken;
      break;
    }
  }
  return result;
}

Request randomRequest(std::mt19937 &random, int64_t longest) {
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  Request request;
  // Prompts begin alike, often beyond a page.
  std::mt19937 common(unsigned(pick(0, 3)));
  for (int64_t i = pick(0, 250); i > 0; --i)
    request.prompt.push_back(int32_t(common() % 50));
  for (int64_t i = pick(1, 70); i > 0; --i)
    request.prompt.push_back(int32_t(pick(0, 49)));
  if (pick(0, 1)) {
    request.sampling.temperature = 5;
    request.sampling.seed = uint64_t(pick(0, 1000));
  }
  if (pick(0, 3) == 0)
    request.sampling.frequencyPenalty = 1;
  request.maxTokens = pick(0, longest);
  if (pick(0, 9) == 0)
    request.maxTokens = -1;
  request.choices = int32_t(std::max<int64_t>(1, pick(-4, 3)));
  for (int64_t i = pick(0, 3); i > 0; --i)
    request.stopTokens.push_back(int32_t(pick(0, 49)));
  request.minTokens = request.maxTokens > 0 ? pick(0, request.maxTokens) : 0;
  if (pick(0, 4) == 0)
    request.logprobs = int32_t(pick(0, 5));
  if (pick(0, 6) == 0)
    request.promptLogprobs = int32_t(pick(0, 3));
  request.priority = int32_t(pick(0, 2));
  request.key = std::string(1, char('a' + pick(0, 3)));
  request.salt = uint64_t(pick(0, 1));
  return request;
}

// A load of many requests, some of which are cancelled.
struct Load {
  int32_t requests = 300;
  uint64_t budget = 0; // of the cache; 0: all that sequences may need
  bool prefixes = true;
  int64_t longest = 40; // answer
  int32_t drafts = 0;   // of a model that repeats itself
};
Result<Session> sessionOf(const Load &load, const SessionOptions &options) {
  if (load.drafts == 0)
    return fakeSession(fakeModel(), options, 12);
  return scriptedSession(scriptedModel(50), options, [](std::span<const int32_t> history) {
    const int32_t last = history.back(), before = history.size() > 1 ? history.end()[-2] : 0;
    return (last * 7 + before * 3 + 1) % 11;
  });
}
void playLoad(unsigned seed, const Load &load, EngineStats *stats = nullptr) {
  std::mt19937 random(seed);
  auto session = sessionOf(load, options(8, load.budget, load.prefixes));
  ASSERT_TRUE(session);
  EngineLimits limits = unmeasured();
  limits.maxWaiting = load.requests;
  limits.maxPerKey = 5;
  limits.drafts = load.drafts;
  if (load.drafts > 0)
    limits.measure = 500ms; // a draft must be known to be cheap
  auto engine = engineOn(std::move(*session), limits);
  struct Sent {
    Request request;
    std::shared_ptr<CollectingSink> sink;
    RequestId id;
    bool cancelled;
  };
  std::vector<Sent> sent;
  for (int32_t i = 0; i < load.requests; ++i) {
    Request request = randomRequest(random, load.longest);
    auto sink = std::make_shared<CollectingSink>(request.choices);
    const RequestId id = accepted(engine->submit(request, sink));
    sent.push_back({std::move(request), std::move(sink), id, false});
    if (random() % 4 == 0) { // one of the last, at any time of its life
      Sent &last = sent[sent.size() - 1 - random() % std::min<size_t>(sent.size(), 8)];
      engine->cancel(last.id);
      last.cancelled = true;
    }
    if (random() % 8 == 0)
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
  }
  for (Sent &one : sent) {
    if (!one.cancelled) {
      ASSERT_TRUE(one.sink->wait()) << "request " << one.id << " does not end";
    }
    EXPECT_FALSE(one.sink->toldAfterEnd());
    for (int32_t choice = 0; choice < one.request.choices; ++choice) {
      const CollectingSink::Answer answer = one.sink->answer(choice);
      Alone expected = alone(one.request, choice, sessionOf(load, options(1)));
      if (!one.cancelled) {
        EXPECT_EQ(answer.finish, expected.finish) << "request " << one.id;
      } else { // what came before is no other
        ASSERT_LE(answer.tokens.size(), expected.tokens.size());
        expected.tokens.resize(answer.tokens.size());
      }
      ASSERT_EQ(answer.tokens, expected.tokens) << "request " << one.id << " choice " << choice;
    }
  }
  expectNothingHeld(*engine);
  if (stats)
    *stats = engine->stats();
}

TEST(EngineLoad, GivesEachRequestWhatItGetsAlone) { playLoad(1, {.prefixes = false}); }

TEST(EngineLoad, GivesTheSameWithAPrefixCache) {
  EngineStats stats;
  playLoad(2, {}, &stats);
  EXPECT_GT(stats.prefixHits, 1000);
  EXPECT_LE(stats.prefixHits, stats.prefixQueries);
}

// Where requests meet is up to the machine: some of these loads run out of pages, if not each.
int64_t preemptionsOf(const Load &load) {
  int64_t preemptions = 0;
  for (unsigned seed = 3; seed < 13 && preemptions == 0; ++seed) {
    EngineStats stats;
    playLoad(seed, load, &stats);
    preemptions += stats.preemptions;
  }
  return preemptions;
}

TEST(EngineLoad, GivesTheSameWhenPagesAreShort) {
  EXPECT_GT(preemptionsOf({.budget = 45 << 10, .longest = 150}), 0);
  EXPECT_GT(preemptionsOf({.budget = 45 << 10, .prefixes = false, .longest = 150}), 0);
}

TEST(EngineLoad, GivesTheSameWithDrafts) {
  EngineStats stats;
  playLoad(5, {.longest = 100, .drafts = 4}, &stats);
  EXPECT_GT(stats.draftHits, 100);
  EXPECT_GT(preemptionsOf({.budget = 45 << 10, .longest = 150, .drafts = 4}), 0);
}

constexpr int32_t kStop = 299;

const Tokenizer &tokenizer() {
  static const auto owned = OwnedTokenizer::byRank(
      [] {
        std::vector<std::string> bytes;
        for (int byte = 0; byte < 256; ++byte)
          bytes.push_back(std::string(1, char(byte)));
        return bytes;
      }(),
      {{"<|tool|>", 298}, {"<|eot|>", kStop}});
  return owned.tokenizer;
}

std::vector<int32_t> idsOf(std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer().encode(text, ids);
  return ids;
}

// An engine whose model answers everything with `answer`.
struct Scripted {
  std::shared_ptr<ScriptedExecutor::Control> control =
      std::make_shared<ScriptedExecutor::Control>();
  std::unique_ptr<Engine> engine;

  explicit Scripted(std::string_view answer, const EngineLimits &limits = unmeasured(),
                    int32_t sequences = 8, EngineObserver *observer = nullptr) {
    auto session = scriptedSession(scriptedModel(300), options(sequences),
                                   answering(idsOf(answer), kStop), control);
    EXPECT_TRUE(session);
    engine = engineOn(std::move(*session), limits, &tokenizer(), observer);
  }
  std::shared_ptr<CollectingSink> ask(Request request, RequestId *id = nullptr) {
    auto sink = std::make_shared<CollectingSink>(request.choices);
    const RequestId given = accepted(engine->submit(std::move(request), sink));
    if (id)
      *id = given;
    return sink;
  }
};

Request asking(std::string_view prompt = "?") {
  Request request;
  request.prompt = idsOf(prompt);
  request.stopTokens = {kStop};
  return request;
}

TEST(Engine, WritesText) {
  Scripted scripted("Grüße <|tool|>!");
  auto sink = scripted.ask(asking());
  ASSERT_TRUE(sink->wait());
  const auto answer = sink->answer();
  EXPECT_EQ(answer.text, "Grüße !");
  EXPECT_EQ(answer.finish, Finish::StopToken);
  EXPECT_EQ(answer.tokens.back(), kStop);
  for (const Event &event : answer.events) { // each byte belongs to a token
    size_t bytes = 0;
    for (const TokenEvent &token : event.tokens)
      bytes += token.textBytes;
    EXPECT_EQ(bytes, event.text.size());
  }
  EXPECT_EQ(answer.events.front().cachedTokens, 0);
  EXPECT_EQ(answer.events.back().cachedTokens, -1);
  Request shows = asking();
  shows.shown = {298};
  sink = scripted.ask(shows);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().text, "Grüße <|tool|>!");
}

TEST(Engine, StopsAtStrings) {
  Scripted scripted("one two three");
  Request request = asking();
  request.stopStrings = {" three", "two"};
  auto sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().text, "one ");
  EXPECT_EQ(sink->answer().finish, Finish::StopString);
  EXPECT_EQ(sink->answer().events.back().stopString, "two");
  request.includeStop = true;
  sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().text, "one two");
}

TEST(Engine, KeepsToNumbersOfTokens) {
  Scripted scripted("abc");
  Request request = asking();
  request.maxTokens = 2;
  auto sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().text, "ab");
  EXPECT_EQ(sink->answer().finish, Finish::Length);

  request.maxTokens = 0;
  sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().events.size(), 1u);
  EXPECT_EQ(sink->answer().finish, Finish::Length);
  EXPECT_GE(sink->answer().events[0].cachedTokens, 0);

  request.maxTokens = -1;
  request.minTokens = 10; // the script wants to stop after three
  sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_GE(sink->answer().tokens.size(), 10u);

  request = asking(std::string(595, '?')); // of a context of 600
  request.stopTokens = {};
  sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().finish, Finish::Length);
  EXPECT_EQ(sink->answer().tokens.size(), 6u); // the last one is told and not fed
}

TEST(Engine, SharesAPromptAmongChoices) {
  Scripted scripted("yes");
  Request request = asking(std::string(200, '?'));
  request.choices = 4;
  auto sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  for (int32_t choice = 0; choice < 4; ++choice)
    EXPECT_EQ(sink->answer(choice).text, "yes");
  EXPECT_EQ(scripted.engine->stats().prefixHits, 3 * 192);
  EXPECT_EQ(sink->answer().events.front().cachedTokens, 0);
  EXPECT_EQ(sink->answer(1).events.front().cachedTokens, -1);
  EXPECT_EQ(scripted.engine->stats().promptTokens, 200);
  sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().events.front().cachedTokens, 192);
}

TEST(Engine, WaitsForAPrefixThatIsBeingComputed) {
  Scripted scripted("yes");
  scripted.control->microseconds = 2000;
  const std::string common(300, '?'); // five steps
  auto first = scripted.ask(asking(common + "a"));
  std::vector<std::shared_ptr<CollectingSink>> others;
  for (const char *end : {"b", "c", "d"})
    others.push_back(scripted.ask(asking(common + end)));
  ASSERT_TRUE(first->wait());
  for (auto &sink : others) {
    ASSERT_TRUE(sink->wait());
    EXPECT_EQ(sink->answer().text, "yes");
    EXPECT_EQ(sink->answer().events.front().cachedTokens, 256);
  }
}

TEST(Engine, DraftsWhatRepeatsItself) {
  std::string answer;
  for (int i = 0; i < 40; ++i)
    answer += "the same words again, ";
  answer = answer.substr(0, 500);
  EngineLimits limits = unmeasured();
  limits.drafts = 6;
  limits.measure = 500ms;
  Scripted scripted(answer + "!", limits);
  auto sink = scripted.ask(asking());
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().text, answer + "!");
  const EngineStats stats = scripted.engine->stats();
  EXPECT_GT(stats.draftHits, 200);
  EXPECT_LE(stats.draftHits, stats.drafts);
  EXPECT_LT(scripted.control->steps, 300); // of 502 tokens
  EXPECT_EQ(stats.generatedTokens, 502);
  size_t most = 0;
  for (const Event &event : sink->answer().events)
    most = std::max(most, event.tokens.size());
  EXPECT_GT(most, 1u);
}

TEST(Engine, SharesNothingBetweenSalts) {
  Scripted scripted("yes");
  Request request = asking(std::string(200, '?'));
  ASSERT_TRUE(scripted.ask(request)->wait());
  request.salt = 7;
  auto sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().events.front().cachedTokens, 0);
}

// The logits of the script: 20 for one token, 0 for the 299 others.
float scriptedLogprob(bool scripted) {
  return float((scripted ? 20 : 0) - std::log(std::exp(20.0) + 299));
}

TEST(Engine, TellsLogprobs) {
  Scripted scripted("ab");
  Request request = asking("xyab");
  request.logprobs = 2;
  request.promptLogprobs = 1;
  auto sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  const auto answer = sink->answer();
  const std::vector<TokenEvent> &prompt = answer.events.front().prompt;
  ASSERT_EQ(prompt.size(), 4u);
  EXPECT_EQ(prompt[0].token, 'x');
  EXPECT_FALSE(prompt[0].logprob);
  EXPECT_EQ(prompt[1].token, 'y'); // where the script wants a
  EXPECT_NEAR(*prompt[1].logprob, scriptedLogprob(false), 1e-4);
  EXPECT_EQ(prompt[1].likely[0].token, 'a');
  EXPECT_NEAR(*prompt[2].logprob, scriptedLogprob(true), 1e-4);
  EXPECT_NEAR(*prompt[3].logprob, scriptedLogprob(true), 1e-4);
  const TokenEvent &first = answer.events.front().tokens.at(0);
  EXPECT_EQ(first.token, kStop); // the prompt ends as the answer does
  EXPECT_NEAR(*first.logprob, scriptedLogprob(true), 1e-4);
  ASSERT_EQ(first.likely.size(), 2u);
  EXPECT_EQ(first.likely[0].token, kStop);
  EXPECT_EQ(first.likely[1].token, 0); // ties to the lower id
}

TEST(Engine, TellsLogprobsOfPromptsThatAreCached) {
  Scripted scripted("ab");
  Request request = asking(std::string(150, '?'));
  ASSERT_TRUE(scripted.ask(request)->wait());
  request.promptLogprobs = 0;
  auto sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().events.front().prompt.size(), 150u);
}

// Even ids only, three of them; or with `stop` then nothing but that.
class EvenGrammar final : public CompiledGrammar {
public:
  explicit EvenGrammar(int32_t stop) : stop(stop) {}
  std::unique_ptr<GrammarMatcher> start() const override { return std::make_unique<Matcher>(stop); }

private:
  class Matcher final : public GrammarMatcher {
  public:
    explicit Matcher(int32_t stop) : stop(stop) {}
    void fillMask(std::span<uint32_t> words) override {
      std::fill(words.begin(), words.end(), 0);
      for (size_t id = 0; id < 256; ++id)
        if (allows(int32_t(id)))
          words[id / 32] |= uint32_t(1) << id % 32;
      if (stop >= 0 && allows(stop))
        words[size_t(stop) / 32] |= uint32_t(1) << stop % 32;
    }
    bool accept(int32_t token) override { return allows(token) && ++taken; }
    void rollback(int32_t tokens) override { taken -= tokens; }
    bool finished() const override { return stop < 0 && taken == 3; }

  private:
    bool allows(int32_t id) const { return taken < 3 ? id < 256 && id % 2 == 0 : id == stop; }
    int32_t stop, taken = 0;
  };
  int32_t stop;
};

TEST(Engine, KeepsToAGrammar) {
  Scripted scripted("abcd"); // 97 98 99 100
  Request request = asking();
  request.grammar = std::make_shared<EvenGrammar>(-1);
  auto sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  ASSERT_EQ(sink->answer().tokens.size(), 3u);
  for (int32_t token : sink->answer().tokens)
    EXPECT_EQ(token % 2, 0);
  EXPECT_EQ(sink->answer().finish, Finish::Grammar);

  request.grammar = std::make_shared<EvenGrammar>(kStop);
  sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().tokens.size(), 4u);
  EXPECT_EQ(sink->answer().finish, Finish::StopToken);

  request.minTokens = 10; // more than the grammar has
  sink = scripted.ask(request);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().tokens.size(), 3u);
  EXPECT_EQ(sink->answer().finish, Finish::Grammar);
}

TEST(Engine, EndsARequestWhoseClientIsGone) {
  Scripted scripted(std::string(500, 'x'));
  scripted.control->microseconds = 1000;
  RequestId id;
  auto gone = scripted.ask(asking(), &id), stays = scripted.ask(asking());
  ASSERT_TRUE(gone->waitForTokens(3));
  scripted.engine->cancel(id);
  scripted.engine->cancel(12345); // nobody's
  ASSERT_TRUE(stays->waitForTokens(100));
  const size_t told = gone->answer().tokens.size();
  EXPECT_LT(told, 100u);
  EXPECT_FALSE(gone->answer().finish);
  ASSERT_TRUE(stays->wait());
  EXPECT_EQ(gone->answer().tokens.size(), told);
  EXPECT_EQ(stays->answer().text, std::string(500, 'x'));
  expectNothingHeld(*scripted.engine);
  EXPECT_EQ(scripted.engine->stats().finished[size_t(Finish::Cancelled)], 1);
}

TEST(Engine, KeepsDeadlines) {
  EngineLimits limits = unmeasured();
  limits.maxQueue = 30ms;
  Scripted scripted(std::string(500, 'x'), limits, 1);
  scripted.control->microseconds = 1000;
  Request request = asking();
  request.deadline = Clock::now() + 100ms;
  auto late = scripted.ask(request), waits = scripted.ask(asking());
  ASSERT_TRUE(late->wait());
  ASSERT_TRUE(waits->wait());
  EXPECT_EQ(late->answer().finish, Finish::Deadline);
  EXPECT_GT(late->answer().tokens.size(), 0u);
  EXPECT_EQ(waits->answer().finish, Finish::QueueDeadline);
  EXPECT_FALSE(waits->answer().events.back().error.empty());
  expectNothingHeld(*scripted.engine);
}

TEST(Engine, RefusesWhatItCannotServe) {
  Scripted scripted("x");
  const auto message = [&](const std::function<void(Request &)> &change) {
    Request request = asking();
    change(request);
    const Refusal refusal =
        refused(scripted.engine->submit(request, std::make_shared<CollectingSink>()));
    EXPECT_EQ(refusal.error.code, Code::InvalidArgument);
    return refusal.error.message;
  };
  const auto has = [](const std::string &text, const char *part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(message([](Request &r) { r.prompt.clear(); }), "no tokens"));
  EXPECT_TRUE(has(message([](Request &r) { r.prompt.push_back(300); }), "ends at 299"));
  EXPECT_TRUE(has(message([](Request &r) { r.prompt.push_back(-1); }), "has id -1"));
  EXPECT_TRUE(has(message([](Request &r) { r.prompt.resize(601); }), "room for 600"));
  EXPECT_TRUE(has(message([](Request &r) { r.maxTokens = 600; }), "do not fit"));
  EXPECT_TRUE(has(message([](Request &r) { r.maxTokens = INT64_MAX; }), "do not fit"));
  EXPECT_TRUE(has(message([](Request &r) { r.maxTokens = -2; }), "negative"));
  EXPECT_TRUE(has(message([](Request &r) { r.minTokens = 9, r.maxTokens = 8; }), "cannot be"));
  EXPECT_TRUE(has(message([](Request &r) { r.choices = 0; }), "at least one"));
  EXPECT_TRUE(has(message([](Request &r) { r.logprobs = 21; }), "0 to 20"));
  EXPECT_TRUE(has(message([](Request &r) { r.promptLogprobs = -1; }), "0 to 20"));
  EXPECT_TRUE(has(message([](Request &r) { r.stopTokens = {300}; }), "stop token"));
  EXPECT_TRUE(has(message([](Request &r) { r.sampling.topP = 0; }), "top-p"));
  Request embeds = asking();
  embeds.embed = true;
  EXPECT_EQ(refused(scripted.engine->submit(embeds, std::make_shared<CollectingSink>())).error.code,
            Code::Unimplemented);
  expectNothingHeld(*scripted.engine);
}

TEST(Engine, RefusesStopStringsWithoutATokenizer) {
  auto session = scriptedSession(scriptedModel(300), options(), answering({1}, kStop));
  ASSERT_TRUE(session);
  auto engine = engineOn(std::move(*session));
  Request request = asking();
  request.stopStrings = {"x"};
  EXPECT_EQ(refused(engine->submit(request, std::make_shared<CollectingSink>())).error.code,
            Code::InvalidArgument);
}

TEST(Engine, SaysWhenToComeAgain) {
  EngineLimits limits = unmeasured();
  limits.maxWaiting = 3;
  Scripted scripted(std::string(500, 'x'), limits, 1);
  scripted.control->microseconds = 1000;
  auto runs = scripted.ask(asking());
  ASSERT_TRUE(runs->waitForTokens(1));
  std::vector<RequestId> ids(3);
  for (RequestId &id : ids)
    scripted.ask(asking(), &id);
  const Refusal refusal =
      refused(scripted.engine->submit(asking(), std::make_shared<CollectingSink>()));
  EXPECT_EQ(refusal.error.code, Code::ResourceExhausted);
  EXPECT_GE(refusal.retryAfter, 1s);
  EXPECT_LE(refusal.retryAfter, 60s);
  EXPECT_EQ(scripted.engine->stats().waiting, 3);
  scripted.engine->cancel(ids[1]);
  const auto start = Clock::now();
  while (scripted.engine->stats().waiting > 2 && Clock::now() - start < 10s)
    std::this_thread::sleep_for(1ms);
  scripted.ask(asking());
}

TEST(Engine, Drains) {
  Scripted scripted(std::string(50, 'x'));
  scripted.control->microseconds = 1000;
  auto sink = scripted.ask(asking());
  scripted.engine->drain();
  EXPECT_FALSE(scripted.engine->idle());
  EXPECT_EQ(
      refused(scripted.engine->submit(asking(), std::make_shared<CollectingSink>())).error.code,
      Code::Unavailable);
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().text, std::string(50, 'x'));
  expectNothingHeld(*scripted.engine);
}

TEST(Engine, EndsWhatRunsWithItself) {
  Scripted scripted(std::string(500, 'x'), unmeasured(), 1);
  scripted.control->microseconds = 1000;
  auto runs = scripted.ask(asking()), waits = scripted.ask(asking());
  ASSERT_TRUE(runs->waitForTokens(1));
  scripted.engine.reset();
  EXPECT_EQ(runs->answer().finish, Finish::Cancelled);
  EXPECT_EQ(waits->answer().finish, Finish::Cancelled);
}

TEST(Engine, EndsAllThatRunsAndWaits) {
  Scripted scripted(std::string(500, 'x'), unmeasured(), 1);
  scripted.control->microseconds = 1000;
  auto runs = scripted.ask(asking()), waits = scripted.ask(asking());
  ASSERT_TRUE(runs->waitForTokens(1));
  scripted.engine->endAll("the server ends");
  ASSERT_TRUE(runs->wait() && waits->wait());
  for (const auto &sink : {runs, waits}) {
    EXPECT_EQ(sink->answer().finish, Finish::Failed);
    EXPECT_EQ(sink->answer().events.back().error, "the server ends");
  }
  EXPECT_LT(runs->answer().tokens.size(), 500u);
  EXPECT_EQ(
      refused(scripted.engine->submit(asking(), std::make_shared<CollectingSink>())).error.code,
      Code::Unavailable);
  EXPECT_FALSE(scripted.engine->failure());
  scripted.engine->endAll("again"); // with nothing that runs
  expectNothingHeld(*scripted.engine);
}

TEST(Engine, FailsThoseWhoseStepFailedAlone) {
  Scripted scripted(std::string(200, 'x'), unmeasured(), 2);
  scripted.control->microseconds = 500;
  auto first = scripted.ask(asking()), second = scripted.ask(asking()),
       third = scripted.ask(asking());
  ASSERT_TRUE(first->waitForTokens(5) && second->waitForTokens(5));
  scripted.control->failures = 1;
  ASSERT_TRUE(first->wait() && second->wait() && third->wait());
  EXPECT_EQ(first->answer().finish, Finish::Failed);
  EXPECT_EQ(first->answer().events.back().error, "a step of the device failed: the device broke");
  EXPECT_EQ(second->answer().finish, Finish::Failed);
  EXPECT_EQ(third->answer().finish, Finish::StopToken); // was not in that step
  EXPECT_FALSE(scripted.engine->failure());
  expectNothingHeld(*scripted.engine);
}

TEST(Engine, FailsThoseWhoseLogitsAreNoNumbersAlone) {
  auto session = scriptedSession(scriptedModel(300), options(),
                                 [](std::span<const int32_t> history) -> int32_t {
                                   return history[0] == 1 ? -1 : history.size() < 9 ? 5 : kStop;
                                 });
  ASSERT_TRUE(session);
  auto engine = engineOn(std::move(*session));
  Request bad = asking(), good = asking();
  bad.prompt = {1, 2, 3};
  good.prompt = {2, 3, 4};
  bad.choices = 3;
  auto broken = std::make_shared<CollectingSink>(3), whole = std::make_shared<CollectingSink>();
  accepted(engine->submit(bad, broken));
  accepted(engine->submit(good, whole));
  ASSERT_TRUE(broken->wait() && whole->wait());
  for (int32_t choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(broken->answer(choice).finish, Finish::Failed);
    EXPECT_NE(broken->answer(choice).events.back().error.find("number"), std::string::npos);
  }
  EXPECT_EQ(whole->answer().tokens.size(), 7u);
  EXPECT_FALSE(engine->failure());
  expectNothingHeld(*engine);
}

TEST(Engine, GivesUpADeviceThatIsLost) {
  Scripted scripted(std::string(200, 'x'), unmeasured(), 1);
  scripted.control->microseconds = 500;
  auto first = scripted.ask(asking()), second = scripted.ask(asking());
  ASSERT_TRUE(first->waitForTokens(5));
  scripted.control->failures = 1000;
  ASSERT_TRUE(first->wait() && second->wait());
  EXPECT_EQ(first->answer().finish, Finish::Failed);
  EXPECT_EQ(second->answer().finish, Finish::Failed);
  const auto start = Clock::now();
  while (!scripted.engine->failure() && Clock::now() - start < 10s)
    std::this_thread::sleep_for(1ms);
  ASSERT_TRUE(scripted.engine->failure());
  EXPECT_EQ(scripted.engine->failure()->message, "the device broke");
  EXPECT_EQ(
      refused(scripted.engine->submit(asking(), std::make_shared<CollectingSink>())).error.code,
      Code::Unavailable);
  expectNothingHeld(*scripted.engine);
}

TEST(Engine, TellsAnObserver) {
  class Observer final : public EngineObserver {
  public:
    void onStep(int64_t tokens, int64_t rows, double seconds, int32_t) override {
      ++steps;
      allTokens += tokens;
      allRows += rows;
      EXPECT_GE(seconds, 0);
    }
    void onFirstToken(double) override { ++firsts; }
    void onInterToken(double) override { ++inters; }
    void onFinish(const Timings &timings) override {
      ++ends;
      last = timings;
    }
    void onEnd(const Ended &request) override { ended.push_back(request); }
    std::vector<Ended> ended;
    int64_t steps = 0, allTokens = 0, allRows = 0, firsts = 0, inters = 0, ends = 0;
    Timings last;
  } observer;
  {
    Scripted scripted("abc", unmeasured(), 8, &observer);
    Request request = asking(std::string(100, '?'));
    request.maxTokens = 30;
    ASSERT_TRUE(scripted.ask(std::move(request))->wait());
  }
  ASSERT_EQ(observer.ended.size(), 1u);
  EXPECT_EQ(observer.ended[0].choices, 1);
  EXPECT_EQ(observer.ended[0].maxTokens, 30);
  EXPECT_EQ(observer.ended[0].longest, 4);
  EXPECT_EQ(observer.steps, 5); // 64 and 36 tokens of the prompt, then three
  EXPECT_EQ(observer.allTokens, 103);
  EXPECT_EQ(observer.allRows, 4);
  EXPECT_EQ(observer.firsts, 1);
  EXPECT_EQ(observer.inters, 3);
  EXPECT_EQ(observer.ends, 1);
  EXPECT_EQ(observer.last.finish, Finish::StopToken);
  EXPECT_EQ(observer.last.promptTokens, 100);
  EXPECT_EQ(observer.last.generatedTokens, 4);
  EXPECT_NEAR(observer.last.queue + observer.last.prefill + observer.last.decode,
              observer.last.whole, 1e-6);
}

TEST(Engine, LetsADeviceChoose) {
  FakeExecutor *fake = nullptr;
  auto session = fakeSession(choosingModel(), options(), 12, &fake);
  ASSERT_TRUE(session);
  auto engine = engineOn(std::move(*session));
  Request request;
  request.prompt = {1, 2, 3};
  request.maxTokens = 20;
  auto sink = std::make_shared<CollectingSink>();
  accepted(engine->submit(request, sink));
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(sink->answer().tokens, alone(request, 0).tokens); // greedy: the same
  engine.reset();
}

TEST(Engine, EmbedsTexts) {
  Request request;
  for (int32_t i = 0; i < 200; ++i)
    request.prompt.push_back(i * 7 % 50);
  request.embed = true;

  auto session = fakeSession(embeddingModel(), options(1));
  ASSERT_TRUE(session);
  Pooling pooling(session->hidden());
  Append part{*session->addSequence(), request.prompt, 200};
  part.hidden = true;
  ASSERT_TRUE(session->run({&part, 1}, [&](size_t, int64_t, std::span<const float> state) {
    pooling.add(state);
    return ok();
  }));

  session = fakeSession(embeddingModel(), options(4), 12);
  ASSERT_TRUE(session);
  auto engine = engineOn(std::move(*session));
  Request beside = request;
  beside.embed = false;
  beside.maxTokens = 100;
  auto sink = std::make_shared<CollectingSink>(), other = std::make_shared<CollectingSink>();
  accepted(engine->submit(beside, other));
  accepted(engine->submit(request, sink));
  ASSERT_TRUE(sink->wait() && other->wait());
  ASSERT_EQ(sink->answer().events.size(), 1u);
  const Event event = sink->answer().events[0];
  EXPECT_EQ(event.finish, Finish::Length);
  EXPECT_EQ(event.cachedTokens, 0);
  ASSERT_EQ(event.embedding.size(), 2u);
  EXPECT_EQ(event.embedding[0], pooling.result(PoolingKind::Mean));
  EXPECT_EQ(event.embedding[1], pooling.result(PoolingKind::Last));
  request.choices = 2;
  EXPECT_EQ(refused(engine->submit(request, sink)).error.code, Code::InvalidArgument);
  expectNothingHeld(*engine);
}

TEST(Engine, MeasuresStepsFirst) {
  auto control = std::make_shared<ScriptedExecutor::Control>();
  auto session = scriptedSession(scriptedModel(300), options(), answering({1}, kStop), control);
  ASSERT_TRUE(session);
  EngineLimits limits = unmeasured();
  limits.measure = 2000ms;
  auto engine = Engine::create(std::move(*session), nullptr, limits, deliverAtOnce);
  ASSERT_TRUE(engine);
  auto sink = std::make_shared<CollectingSink>();
  accepted((*engine)->submit(asking(), sink));
  ASSERT_TRUE(sink->wait());
  EXPECT_EQ(control->steps, 7 * 3 + 2); // 1, 2, ... 64 tokens, thrice
  expectNothingHeld(**engine);
}

TEST(Engine, RefusesLimitsThatMakeNoSense) {
  for (const auto &change : std::vector<std::function<void(EngineLimits &)>>{
           [](EngineLimits &l) { l.itlStretch = 0.5; }, [](EngineLimits &l) { l.itlStretch = -1; },
           [](EngineLimits &l) { l.maxWaiting = 0; }, [](EngineLimits &l) { l.drafts = -1; }}) {
    EngineLimits limits = unmeasured();
    change(limits);
    auto session = scriptedSession(scriptedModel(300), options(), answering({1}, kStop));
    ASSERT_TRUE(session);
    const auto engine = Engine::create(std::move(*session), nullptr, limits, deliverAtOnce);
    ASSERT_FALSE(engine);
    EXPECT_EQ(engine.error().code, Code::InvalidArgument);
  }
}

} // namespace
} // namespace moe::server
