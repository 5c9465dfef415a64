// A session that takes prefixes from its cache, and runs out of pages, gives the logits of fresh
// sessions: checked with an executor whose logits depend on all tokens that a row sees.
#include "runtime/session/MemoryStatement.h"
#include "runtime/session/TestSessions.h"

#include <cstdlib>
#include <gtest/gtest.h>
#include <map>
#include <new>
#include <random>

// Allocations of this thread while it counts.
static thread_local bool counting = false;
static thread_local int64_t allocations = 0;

void *operator new(size_t size) {
  allocations += counting;
  if (void *memory = std::malloc(size ? size : 1))
    return memory;
  std::abort();
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t) noexcept { std::free(memory); }

using namespace moe;

namespace {

int64_t attached(Session &session, int32_t sequence, std::span<const int32_t> tokens) {
  auto length = session.attach(sequence, tokens);
  EXPECT_TRUE(length) << length.error().message;
  return length ? *length : -1;
}

TEST(PrefixSession, AHitGivesTheLogitsOfAFreshSession) {
  for (int32_t chunk : {0, 64, 96, 128, 256}) {
    const SessionModel model = fakeModel(chunk);
    Session session = make(model, caching());
    const Tokens tokens = someTokens(500, 1);
    int32_t first = *session.addSequence();
    EXPECT_EQ(attached(session, first, tokens), 0);
    lastRow(session, first, tokens);
    for (int64_t length : {1, 63, 64, 65, 127, 128, 129, 257, 400, 500}) {
      const auto prompt = std::span(tokens).first(length);
      int32_t s = *session.addSequence();
      const int64_t cached = session.cachedPrefix(prompt);
      EXPECT_EQ(attached(session, s, prompt), cached);
      EXPECT_EQ(session.length(s), cached);
      if (chunk != 96)
        EXPECT_EQ(cached, (length - 1) / 64 * 64);
      EXPECT_EQ(lastRow(session, s, prompt.subspan(cached)), fresh(model, prompt));
      EXPECT_EQ(session.length(s), length);
      session.removeSequence(s);
    }
    EXPECT_EQ(lastRow(session, first, std::span(tokens).first(1)), [&] {
      Tokens longer = tokens;
      longer.push_back(tokens[0]);
      return fresh(model, longer);
    }());
  }
}

TEST(PrefixSession, IsOffUnlessAsked) {
  SessionOptions options = caching();
  options.prefixCache = false;
  Session session = make(fakeModel(), options);
  const Tokens tokens = someTokens(200, 1);
  int32_t s = *session.addSequence();
  lastRow(session, s, tokens);
  session.removeSequence(s);
  s = *session.addSequence();
  EXPECT_EQ(session.cachedPrefix(tokens), 0);
  EXPECT_EQ(attached(session, s, tokens), 0);
  EXPECT_EQ(session.poolUse(0).cached, 0);
}

TEST(PrefixSession, AttachesEmptySequencesAlone) {
  Session session = make(fakeModel(), caching());
  int32_t s = *session.addSequence();
  const Tokens tokens = someTokens(100, 1);
  lastRow(session, s, tokens);
  auto status = session.attach(s, tokens);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::InvalidArgument);
  EXPECT_EQ(session.length(s), 100);
  ASSERT_TRUE(session.truncate(s, 0)); // as after preemption
  EXPECT_EQ(attached(session, s, tokens), 64);
}

TEST(PrefixSession, SaltsAreSeparate) {
  Session session = make(fakeModel(), caching());
  const Tokens tokens = someTokens(200, 1);
  int32_t s = *session.addSequence(3);
  lastRow(session, s, tokens);
  session.removeSequence(s);
  s = *session.addSequence();
  EXPECT_EQ(attached(session, s, tokens), 0);
  session.removeSequence(s);
  EXPECT_EQ(session.cachedPrefix(tokens), 0);
  EXPECT_EQ(session.cachedPrefix(tokens, 3), 192);
  s = *session.addSequence(3);
  EXPECT_EQ(attached(session, s, tokens), 192);
}

TEST(PrefixSession, TentativeTokensAreNotPublished) {
  // Also where a run takes several steps of the device.
  for (int32_t maxStep : {32, 200}) {
    const SessionModel model = fakeModel(512, maxStep);
    Session session = make(model, caching());
    const Tokens tokens = someTokens(200, 1);
    int32_t s = *session.addSequence();
    const std::span<const int32_t> all = tokens;
    lastRow(session, s, all.first(60));
    const Append tentative{s, all.subspan(60, 80), 80, true};
    const auto none = [](size_t, int64_t, std::span<const float>) { return ok(); };
    ASSERT_TRUE(session.run({&tentative, 1}, none));
    EXPECT_EQ(session.cachedPrefix(tokens), 0);
    ASSERT_TRUE(session.truncate(s, 70));
    EXPECT_EQ(session.cachedPrefix(tokens), 0);
    Tokens other(all.begin(), all.begin() + 70);
    const Tokens tail = someTokens(100, 2);
    other.insert(other.end(), tail.begin(), tail.end());
    EXPECT_EQ(lastRow(session, s, tail), fresh(model, other)); // accepts the 70
    EXPECT_EQ(session.cachedPrefix(other), 128);
    EXPECT_EQ(session.cachedPrefix(tokens), 64);
    // The sequence's next step accepts what is left of the tentative ones before it.
    const Append again{s, all.first(30), 1, true};
    ASSERT_TRUE(session.run({&again, 1}, none));
    other.insert(other.end(), all.begin(), all.begin() + 30);
    other.push_back(1);
    EXPECT_EQ(session.cachedPrefix(other), 128);
    lastRow(session, s, std::span(other).last(1));
    EXPECT_EQ(session.cachedPrefix(other), 192);
  }
}

TEST(PrefixSession, GoesBackIntoAPublishedPage) {
  const SessionModel model = fakeModel(128);
  FakeExecutor *fake = nullptr;
  Session session = make(model, caching(), &fake);
  const Tokens tokens = someTokens(250, 1);
  int32_t s = *session.addSequence(), t = *session.addSequence();
  lastRow(session, s, tokens);
  EXPECT_EQ(attached(session, t, tokens), 192);
  for (int64_t length : {200, 191, 180, 129, 128}) {
    ASSERT_TRUE(session.truncate(s, length));
    EXPECT_EQ(session.length(s), length);
  }
  ASSERT_TRUE(session.truncate(s, 0));
  lastRow(session, s, tokens);
  Tokens other(tokens.begin(), tokens.begin() + 150);
  ASSERT_TRUE(session.truncate(s, 170));
  ASSERT_TRUE(session.truncate(s, 150)); // once more before they are computed again
  // A failing step leaves them to be computed.
  fake->failAt = fake->runs + 1;
  EXPECT_FALSE(session.append(s, std::span(other).first(3)));
  EXPECT_EQ(session.length(s), 150);
  std::vector<Row> rows;
  const Tokens tail = someTokens(40, 2);
  const Append part{s, tail, 40};
  std::vector<int64_t> told;
  ASSERT_TRUE(session.run({&part, 1}, [&](size_t, int64_t token, std::span<const float> logits) {
    told.push_back(token);
    rows.emplace_back(logits.begin(), logits.end());
    return ok();
  }));
  EXPECT_EQ(session.length(s), 190);
  ASSERT_EQ(rows.size(), 40u);
  for (size_t i = 0; i < 40; ++i) {
    other.push_back(tail[i]);
    EXPECT_EQ(told[i], int64_t(i));
    EXPECT_EQ(rows[i], fresh(model, other));
  }
  // The other sequence still has the first text.
  EXPECT_EQ(lastRow(session, t, std::span(tokens).subspan(192)), fresh(model, tokens));
}

TEST(PrefixSession, CountsEvictionsAndTellsOfPages) {
  SessionOptions options = caching(1, 256);
  options.cacheBudget = 40 * 1024;
  Session session = make(fakeModel(128), options);
  int64_t stored = 0, removed = 0;
  session.setPageObserver([&](const PageEvent &event) { ++(event.stored ? stored : removed); });
  for (uint32_t seed = 0; seed < 30; ++seed) {
    int32_t s = *session.addSequence();
    lastRow(session, s, someTokens(200, seed));
    session.removeSequence(s);
  }
  EXPECT_EQ(stored, 90);
  EXPECT_EQ(removed, int64_t(session.evictions(0)));
  EXPECT_EQ(stored - removed, session.poolUse(0).cached);
  EXPECT_GT(removed, 0);
}

// Runs a FakeExecutor, whose own allocations do not count.
class UncountedExecutor final : public Executor {
public:
  explicit UncountedExecutor(std::unique_ptr<Executor> executor) : executor(std::move(executor)) {}
  Status run(const Step &step) override {
    counting = false;
    Status status = executor->run(step);
    counting = true;
    return status;
  }
  std::span<const std::byte> output(uint32_t index) const override {
    return executor->output(index);
  }
  int32_t maxTokens() const override { return executor->maxTokens(); }
  int32_t maxRows() const override { return executor->maxRows(); }

private:
  std::unique_ptr<Executor> executor;
};

TEST(PrefixSession, StepsAllocateNothing) {
  const SessionModel model = fakeModel(128, 32);
  SessionOptions options = caching(3, 640);
  options.cacheBudget = 40 * 1024;
  auto made = Session::create(
      model, options, [&](const ExecutorOptions &executor) -> Result<std::unique_ptr<Executor>> {
        return std::unique_ptr<Executor>(std::make_unique<UncountedExecutor>(
            std::make_unique<FakeExecutor>(model, executor, model.maxStep, 16)));
      });
  ASSERT_TRUE(made);
  Session &session = *made;
  std::vector<Tokens> prompts;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    prompts.push_back(someTokens(340, seed % 3));
    const Tokens tail = someTokens(50, seed);
    std::copy(tail.begin(), tail.end(), prompts.back().end() - 50 - 64 * (seed % 4));
  }
  int64_t steps = 0, hits = 0;
  allocations = 0;
  for (int turn = 0; turn < 200; ++turn) {
    const std::span<const int32_t> prompt = prompts[turn * 5 % 8];
    counting = true;
    const int32_t s = *session.addSequence();
    const int64_t cached = *session.attach(s, prompt);
    const Append parts[] = {{s, prompt.subspan(size_t(cached)), 1},
                            {s, prompt.first(20), 20, true}};
    const Status ran = session.run(parts, [&](size_t, int64_t, std::span<const float>) {
      ++steps;
      return ok();
    });
    const Status cut = session.truncate(s, session.length(s) - 50); // into a published page
    const Status again =
        session.run({parts + 1, 1}, [](size_t, int64_t, std::span<const float>) { return ok(); });
    session.removeSequence(s);
    counting = false;
    ASSERT_TRUE(ran) << ran.error().message;
    ASSERT_TRUE(cut) << cut.error().message;
    ASSERT_TRUE(again) << again.error().message;
    hits += cached > 0;
  }
  EXPECT_EQ(allocations, 0);
  EXPECT_GT(hits, 20);
  EXPECT_GT(steps, 200);
  EXPECT_GT(session.evictions(0), 20u);
}

uint64_t bytesOf(const Session &session, const SessionModel &model) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < session.pools(); ++i)
    bytes += uint64_t(session.poolUse(i).pages) * model.pools[i].pageBytes;
  return bytes;
}

// As an engine works: prompts that begin as others did, answers, drafts that are taken back,
// sequences put off when pages run out, with every logit row compared.
TEST(PrefixSession, ManySequencesOnFewPages) {
  uint64_t hits = 0, evictions = 0, preemptions = 0, checked = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    auto below = [&](int64_t n) { return int64_t(random() % uint64_t(n)); };
    const int32_t chunks[] = {0, 8, 64, 96, 128, 256};
    const int32_t chunk = chunks[seed % 6];
    const SessionModel model = fakeModel(chunk, int32_t(8 + below(60)));
    SessionOptions options = caching(1 + int32_t(below(4)), 700);
    options.cacheBudget =
        cacheBytes(model, options.context, 1, model.maxStep) + uint64_t(below(30)) * 1024;
    Session session = make(model, options, nullptr, 16);
    std::map<Tokens, Row> known; // logits of fresh sessions
    const auto expected = [&](const Tokens &tokens) -> const Row & {
      Row &row = known[tokens];
      if (row.empty())
        row = fresh(model, tokens);
      return row;
    };
    struct Running {
      int32_t sequence;
      uint64_t salt;
      Tokens tokens; // all that it shall have
    };
    std::vector<Running> running;
    std::vector<Tokens> prompts{{}};
    for (int turn = 0; turn < 100; ++turn) {
      if (int(running.size()) < options.maxSequences && below(3)) {
        Tokens prompt = prompts[below(int64_t(prompts.size()))];
        const int64_t unit = chunk && below(2) ? chunk : 64;
        prompt.resize(std::clamp<int64_t>(below(600 / unit + 1) * unit + below(5) - 2, 0,
                                          int64_t(prompt.size())));
        for (int64_t more = 1 + below(200); more > 0 && prompt.size() < 600; --more)
          prompt.push_back(int32_t(below(3)));
        const uint64_t salt = below(6) == 0;
        const int32_t s = *session.addSequence(salt);
        hits += attached(session, s, prompt) > 0;
        running.push_back({s, salt, prompt});
        prompts.push_back(prompt);
      }
      std::vector<Append> parts;
      for (Running &r : running) {
        const int64_t length = session.length(r.sequence);
        if (length == int64_t(r.tokens.size()) && length < 700)
          r.tokens.push_back(int32_t(below(3))); // the answer
        const auto rest = std::span<const int32_t>(r.tokens).subspan(size_t(length));
        if (rest.empty())
          continue;
        const auto some = rest.first(size_t(1 + below(std::min<int64_t>(rest.size(), 90))));
        parts.push_back({r.sequence, some, below(int64_t(std::min<size_t>(some.size(), 2)) + 1),
                         below(4) == 0});
      }
      if (parts.empty())
        continue;
      std::vector<int64_t> lengths;
      for (const Append &part : parts)
        lengths.push_back(session.length(part.sequence));
      auto status = session.run(parts, [&](size_t p, int64_t token, std::span<const float> logits) {
        Running &r = *std::find_if(running.begin(), running.end(), [&](const Running &r) {
          return r.sequence == parts[p].sequence;
        });
        const Tokens prefix(r.tokens.begin(), r.tokens.begin() + lengths[p] + token + 1);
        EXPECT_EQ(Row(logits.begin(), logits.end()), expected(prefix));
        ++checked;
        return ok();
      });
      if (!status) {
        ASSERT_EQ(status.error().code, Code::ResourceExhausted) << status.error().message;
        for (size_t p = 0; p < parts.size(); ++p)
          EXPECT_EQ(session.length(parts[p].sequence), lengths[p]);
        ASSERT_GT(running.size(), 1u) << "one sequence always fits: " << status.error().message;
        ++preemptions;
        session.removeSequence(running.back().sequence);
        running.pop_back();
      } else {
        for (size_t p = 0; p < parts.size(); ++p) {
          const int64_t length = session.length(parts[p].sequence);
          EXPECT_EQ(length, lengths[p] + int64_t(parts[p].tokens.size()));
          if (parts[p].tentative && parts[p].tokens.size() <= size_t(model.maxStep) &&
              parts.size() == 1)
            EXPECT_TRUE(
                session.truncate(parts[p].sequence, length - below(length - lengths[p] + 1)));
          else if (below(12) == 0) { // where that is possible: another answer
            Running &r = running[p < running.size() ? p : 0];
            const int64_t to = below(session.length(r.sequence) + 1);
            if (session.truncate(r.sequence, to))
              for (size_t i = size_t(to); i < r.tokens.size(); ++i)
                r.tokens[i] = int32_t(below(3));
          }
        }
      }
      for (size_t i = running.size(); i-- > 0;)
        if (below(25) == 0 || session.length(running[i].sequence) == 700) {
          prompts.push_back(running[i].tokens);
          session.removeSequence(running[i].sequence);
          running.erase(running.begin() + i);
        }
      for (size_t pool = 0; pool < session.pools(); ++pool) {
        const PoolUse use = session.poolUse(pool);
        EXPECT_EQ(use.free + use.cached + use.held, use.pages);
      }
      EXPECT_LE(bytesOf(session, model), options.cacheBudget);
    }
    for (const Running &r : running)
      session.removeSequence(r.sequence);
    for (size_t pool = 0; pool < session.pools(); ++pool) {
      EXPECT_EQ(session.poolUse(pool).held, 0);
      evictions += session.evictions(pool);
    }
  }
  EXPECT_GT(hits, 100u);
  EXPECT_GT(evictions, 200u);
  EXPECT_GT(preemptions, 10u);
  EXPECT_GT(checked, 1000u);
}

} // namespace
