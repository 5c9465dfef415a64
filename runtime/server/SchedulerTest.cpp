// The scheduler beside toy pools and a toy cost, under random arrivals.
#include "runtime/server/Scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

namespace moe::server {
namespace {

int64_t pagesOf(int64_t tokens) { return (tokens + 63) / 64; }

// A device whose step takes one unit, and a twentieth for each token.
double toyCost(int64_t tokens) { return 1 + 0.05 * double(tokens); }

StepCosts knownCosts(int64_t most) {
  StepCosts costs;
  for (int64_t tokens = 1; tokens <= most; ++tokens)
    for (int repeat = 0; repeat < 16; ++repeat)
      costs.observe(tokens, toyCost(tokens));
  return costs;
}

Task prompt(uint64_t arrival, int64_t tokens, int64_t length = 0) {
  return {.arrival = arrival, .running = true, .begun = true, .length = length, .pending = tokens};
}
Task writer(uint64_t arrival, int64_t length) {
  return {.arrival = arrival, .running = true, .begun = true, .writing = true, .length = length};
}
constexpr PoolState kRoomy[] = {{0, 1000, 1000}, {128, 1000, 1000}};

TEST(Scheduler, GivesWritersATokenAndPromptsTheRest) {
  const Scheduler scheduler({.maxStep = 256, .maxRows = 8, .maxTasks = 8, .itlStretch = 0});
  const Task tasks[] = {writer(3, 70), prompt(5, 500), writer(1, 10)};
  const Plan plan = scheduler.plan(tasks, kRoomy, {});
  ASSERT_EQ(plan.parts.size(), 3u);
  EXPECT_EQ(plan.parts[0].task, 2u); // the oldest first
  EXPECT_EQ(plan.parts[0].tokens, 1);
  EXPECT_EQ(plan.parts[0].rows, 1);
  EXPECT_EQ(plan.parts[1].task, 0u);
  EXPECT_EQ(plan.parts[2].task, 1u);
  EXPECT_EQ(plan.parts[2].tokens, 192); // ends a page
  EXPECT_EQ(plan.parts[2].rows, 0);
  EXPECT_FALSE(plan.preempt);
  EXPECT_EQ(plan.room, 0);
}

TEST(Scheduler, EndsAPromptWithARow) {
  const Scheduler scheduler({.maxStep = 256, .maxRows = 8, .maxTasks = 8});
  const Task tasks[] = {prompt(5, 100, 64)};
  const Plan plan = scheduler.plan(tasks, kRoomy, {});
  ASSERT_EQ(plan.parts.size(), 1u);
  EXPECT_EQ(plan.parts[0].tokens, 100);
  EXPECT_EQ(plan.parts[0].rows, 1);
  EXPECT_EQ(plan.room, 156); // for another one
}

TEST(Scheduler, DoesNotShortenAChunkMuchForAPage) {
  const Scheduler scheduler({.maxStep = 100, .maxRows = 8, .maxTasks = 8});
  const Task tasks[] = {prompt(5, 500)};
  EXPECT_EQ(scheduler.plan(tasks, kRoomy, {}).parts[0].tokens, 100); // and not 64
}

TEST(Scheduler, KeepsStepsWithPromptsShort) {
  const Scheduler scheduler({.maxStep = 512, .maxRows = 64, .maxTasks = 64, .itlStretch = 1.5});
  std::vector<Task> tasks = {prompt(100, 500)};
  for (uint64_t i = 0; i < 8; ++i)
    tasks.push_back(writer(i, 10));
  const Plan plan = scheduler.plan(tasks, kRoomy, knownCosts(512));
  // 1 + 0.05 (8 + q) <= 1.5 (1 + 0.05 * 8)
  ASSERT_EQ(plan.parts.size(), 9u);
  EXPECT_NEAR(double(plan.parts.back().tokens), 14, 1);
}

TEST(Scheduler, GivesAPromptATokenWhateverItCosts) {
  const Scheduler scheduler(
      {.maxStep = 512, .maxRows = 64, .maxTasks = 64, .itlStretch = 1.0, .promptShare = 0});
  const Task tasks[] = {writer(1, 10), prompt(2, 500)};
  EXPECT_EQ(scheduler.plan(tasks, kRoomy, knownCosts(512)).parts.back().tokens, 1);
}

// A model with experts on a CPU: the first tokens of a step bring experts of their own.
StepCosts costsOfExperts(int64_t most) {
  StepCosts costs;
  for (int64_t tokens = 1; tokens <= most; ++tokens)
    for (int repeat = 0; repeat < 16; ++repeat)
      costs.observe(tokens, 1 - std::pow(15.0 / 16, double(tokens)) + 0.002 * double(tokens));
  return costs;
}

TEST(Scheduler, GivesPromptsTheirShareWhereAStretchWouldStarveThem) {
  const StepCosts costs = costsOfExperts(512);
  const Task tasks[] = {writer(1, 10), prompt(2, 512)};
  const auto chunk = [&](double stretch, double share) {
    const Scheduler scheduler({.maxStep = 512,
                               .maxRows = 64,
                               .maxTasks = 64,
                               .itlStretch = stretch,
                               .promptShare = share});
    return double(scheduler.plan(tasks, kRoomy, costs).parts.back().tokens);
  };
  const auto rate = [&](double tokens) { return tokens / costs.of(int64_t(tokens) + 1); };
  const double alone = 511 / costs.of(511);
  EXPECT_LT(rate(chunk(1.5, 0)), alone / 8); // without the share
  double before = 0;
  for (const double share : {0.1, 1.0 / 3, 0.5, 0.75}) {
    const double tokens = chunk(1.5, share);
    EXPECT_GT(rate(tokens), 0.75 * share * alone) << share; // a chunk may be cut at a page's end
    EXPECT_GT(tokens, before) << share;
    EXPECT_LT(rate(tokens), 1.2 * share * alone) << share; // and no more of the writer's time
    before = tokens;
  }
  EXPECT_EQ(chunk(0, 0.1), 448); // prompts first, whatever the share is
}

TEST(Scheduler, AShareIsNoMoreThanAStretchThatGivesIt) {
  // Beyond the first, tokens cost the same: a third of the rate is a stretch of a half more.
  const StepCosts costs = knownCosts(512);
  std::vector<Task> tasks = {prompt(100, 500)};
  for (uint64_t i = 0; i < 8; ++i)
    tasks.push_back(writer(i, 10));
  const auto chunk = [&](double share) {
    const Scheduler scheduler(
        {.maxStep = 512, .maxRows = 64, .maxTasks = 64, .itlStretch = 1.5, .promptShare = share});
    return scheduler.plan(tasks, kRoomy, costs).parts.back().tokens;
  };
  EXPECT_NEAR(double(chunk(0)), double(chunk(1.0 / 3)), 1);
  EXPECT_GT(chunk(0.5), chunk(0));
}

TEST(Scheduler, LimitsRowsOfPromptsThatWantThemAll) {
  const Scheduler scheduler({.maxStep = 512, .maxRows = 8, .maxTasks = 8, .itlStretch = 0});
  Task wanting = prompt(1, 500);
  wanting.everyRow = true;
  const Task tasks[] = {wanting, writer(2, 10)};
  const Plan plan = scheduler.plan(tasks, kRoomy, {});
  ASSERT_EQ(plan.parts.size(), 2u);
  EXPECT_EQ(plan.parts[1].tokens, 7);
  EXPECT_EQ(plan.parts[1].rows, 7);
}

TEST(Scheduler, GivesDraftsWhatIsLeft) {
  const Scheduler scheduler({.maxStep = 8, .maxRows = 6, .maxTasks = 4, .itlStretch = 0});
  Task first = writer(1, 10), second = writer(2, 10);
  first.drafts = second.drafts = 4;
  const Task tasks[] = {first, second, prompt(3, 20)};
  const Plan plan = scheduler.plan(tasks, kRoomy, {});
  ASSERT_EQ(plan.parts.size(), 3u);
  EXPECT_EQ(plan.parts[0].tokens, 4); // a row is kept for each of the others
  EXPECT_EQ(plan.parts[0].rows, 4);
  EXPECT_EQ(plan.parts[1].tokens, 1);
  EXPECT_EQ(plan.parts[2].tokens, 3);
}

TEST(Scheduler, TakesPagesFromTheYoungestOfTheLowestPriority) {
  const Scheduler scheduler({.maxStep = 64, .maxRows = 8, .maxTasks = 8});
  std::vector<Task> tasks = {writer(1, 64), writer(9, 10), writer(5, 10), writer(7, 10)};
  tasks[2].priority = tasks[3].priority = 3;
  const PoolState pools[] = {{0, 4, 0}};
  const Plan plan = scheduler.plan(tasks, pools, {});
  ASSERT_TRUE(plan.preempt);
  EXPECT_EQ(*plan.preempt, 3u);
}

TEST(Scheduler, LetsAPromptWaitForPagesOfOlderOnes) {
  const Scheduler scheduler({.maxStep = 64, .maxRows = 8, .maxTasks = 8});
  const Task tasks[] = {writer(1, 30), prompt(2, 100, 64)};
  const PoolState pools[] = {{0, 2, 0}};
  const Plan plan = scheduler.plan(tasks, pools, {});
  EXPECT_FALSE(plan.preempt);
  ASSERT_EQ(plan.parts.size(), 1u);
  EXPECT_EQ(plan.parts[0].task, 0u);
}

TEST(Scheduler, BeginsInTheOrderOfPriorityThenKeysThenArrival) {
  const Scheduler scheduler({.maxStep = 64, .maxRows = 8, .maxTasks = 8, .maxPerKey = 2});
  std::vector<Share> shares = {{true, 0, 500}, {true, 0, 20}, {true, 2, 0}};
  std::vector<Task> tasks(5);
  tasks[0] = {.arrival = 1, .priority = 1, .key = 1};
  tasks[1] = {.arrival = 2, .key = 0};
  tasks[2] = {.arrival = 3, .key = 1};
  tasks[3] = {.arrival = 4, .key = 2}; // has as many as it may
  tasks[4] = {.arrival = 5, .key = 0, .begun = true};
  std::vector<size_t> order;
  while (auto next = scheduler.next(tasks, shares)) {
    order.push_back(*next);
    tasks[*next].blocked = true;
  }
  EXPECT_EQ(order, (std::vector<size_t>{4, 2, 1, 0}));
}

TEST(Scheduler, CountsWhatFits) {
  const Scheduler scheduler({.maxStep = 64, .maxRows = 8, .maxTasks = 8});
  const Task task = prompt(1, 200, 64); // ends at 264: 4 pages more
  const PoolState five[] = {{0, 100, 5}}, six[] = {{0, 100, 6}};
  EXPECT_FALSE(scheduler.fits(task, five, 2)); // one for each of those that run
  EXPECT_TRUE(scheduler.fits(task, six, 2));
  EXPECT_TRUE(scheduler.fits(task, five, 1));
  const Task big = prompt(1, 100000);
  const PoolState chunked[] = {{128, 10, 10}}; // needs no more than a chunk at a time
  EXPECT_TRUE(scheduler.fits(big, chunked, 3));
}

TEST(Scheduler, KnowsWhatASequenceCanHaveAlone) {
  const PoolState global[] = {{0, 4, 0}}, small[] = {{256, 5, 0}}, chunked[] = {{256, 6, 0}};
  EXPECT_EQ(Scheduler::capacity(global, 1000), 256);
  EXPECT_EQ(Scheduler::capacity(global, 100), 100);
  EXPECT_EQ(Scheduler::capacity(small, 1000), 320);
  EXPECT_EQ(Scheduler::capacity(chunked, 1000), 1000);
}

// Plays a load against a scheduler and checks each step.
class Load {
public:
  struct Options {
    int32_t requests = 150;
    int64_t longestPrompt = 400, longestAnswer = 200;
    int64_t globalPages = 24, chunkedPages = 24;
    int32_t keys = 1, priorities = 1;
    double arrivalsPerStep = 0.5;
    SchedulerLimits limits{.maxStep = 128, .maxRows = 16, .maxTasks = 12, .itlStretch = 1.5};
  };

  Load(const Options &options, unsigned seed)
      : options(options), random(seed), scheduler(options.limits),
        costs(knownCosts(options.limits.maxStep)) {
    pools = {{0, options.globalPages, options.globalPages},
             {128, options.chunkedPages, options.chunkedPages}};
    shares.resize(options.keys);
  }

  void play() {
    int64_t steps = 0;
    while (finished < options.requests) {
      ASSERT_LT(++steps, 200000) << "requests starve";
      arrive();
      ASSERT_NO_FATAL_FAILURE(step());
    }
    EXPECT_EQ(pools[0].available, pools[0].pages);
    EXPECT_EQ(pools[1].available, pools[1].pages);
  }
  int64_t preemptions = 0, chunks = 0;

private:
  int64_t pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  }

  void arrive() {
    while (arrived < options.requests &&
           std::uniform_real_distribution<double>()(random) < options.arrivalsPerStep) {
      Task task;
      task.arrival = uint64_t(++arrived);
      task.key = size_t(pick(0, options.keys - 1));
      task.priority = int32_t(pick(0, options.priorities - 1));
      task.pending = pick(1, options.longestPrompt);
      task.everyRow = pick(0, 9) == 0;
      tasks.push_back(task);
      toWrite[task.arrival] = pick(1, options.longestAnswer);
    }
  }

  int64_t running() const {
    return std::count_if(tasks.begin(), tasks.end(), [](const Task &task) { return task.running; });
  }

  // Pages [begin, end) that a sequence of `length` holds.
  static int64_t heldPages(const PoolState &pool, int64_t length) {
    const int64_t start = pool.chunk ? length / pool.chunk * pool.chunk : 0;
    return std::max<int64_t>(pagesOf(length) - start / 64, 0);
  }

  void stop(Task &task) {
    for (PoolState &pool : pools)
      pool.available += heldPages(pool, task.length);
    task.running = false;
    --shares[task.key].running;
  }

  void step() {
    Plan plan;
    bool mayBegin = true;
    while (true) {
      plan = scheduler.plan(tasks, pools, costs);
      if (plan.preempt) {
        Task &task = tasks[*plan.preempt];
        ASSERT_TRUE(task.running);
        ASSERT_GT(running(), 1) << "the last one is preempted";
        for (const Task &other : tasks) // it is the youngest of the lowest priority
          if (other.running && &other != &task)
            ASSERT_TRUE(other.priority < task.priority ||
                        (other.priority == task.priority && other.arrival < task.arrival));
        stop(task);
        task.pending += task.length;
        task.length = 0;
        task.writing = false;
        ++preemptions;
        mayBegin = false;
        continue;
      }
      if (plan.room < 1 || !mayBegin)
        break;
      const auto next = scheduler.next(tasks, shares);
      if (!next)
        break;
      Task &task = tasks[*next];
      if (!scheduler.fits(task, pools, running()))
        break;
      if (options.keys == 1 && !task.begun) { // first come, first served
        for (const Task &other : tasks)
          ASSERT_FALSE(!other.begun && !other.running && other.priority == task.priority &&
                       other.arrival < task.arrival);
      }
      task.running = task.begun = true;
      ++shares[task.key].running;
    }
    if (tasks.empty())
      return;
    ASSERT_FALSE(plan.parts.empty()) << "a step without progress";
    check(plan);
    advance(plan);
  }

  void check(const Plan &plan) {
    int64_t tokens = 0, rows = 0, writers = 0;
    std::vector<bool> seen(tasks.size());
    for (const Plan::Part &part : plan.parts) {
      const Task &task = tasks[part.task];
      ASSERT_TRUE(task.running);
      ASSERT_FALSE(seen[part.task]);
      seen[part.task] = true;
      ASSERT_GE(part.tokens, 1);
      ASSERT_LE(part.tokens, task.pending);
      ASSERT_EQ(part.rows, task.everyRow ? part.tokens : part.tokens == task.pending);
      tokens += part.tokens;
      rows += part.rows;
      writers += task.writing;
      chunks += part.tokens < task.pending;
    }
    ASSERT_LE(tokens, options.limits.maxStep);
    ASSERT_LE(rows, options.limits.maxRows);
    ASSERT_LE(running(), options.limits.maxTasks);
    for (size_t i = 0; i < tasks.size(); ++i)
      ASSERT_FALSE(tasks[i].running && tasks[i].writing && !seen[i]) << "a writer was left out";
    if (writers > 0 && tokens - writers > 1) {
      ASSERT_LE(toyCost(tokens), options.limits.itlStretch * toyCost(writers) + 0.05);
    }
    if (options.limits.maxPerKey > 0)
      for (const Share &share : shares)
        ASSERT_LE(share.running, options.limits.maxPerKey);
    // The most important one that runs is always in the step.
    const auto first = std::min_element(tasks.begin(), tasks.end(), [](auto &a, auto &b) {
      return std::tuple(!a.running, a.priority, a.arrival) <
             std::tuple(!b.running, b.priority, b.arrival);
    });
    ASSERT_TRUE(seen[size_t(first - tasks.begin())]);
  }

  void advance(const Plan &plan) {
    std::vector<uint64_t> done;
    for (const Plan::Part &part : plan.parts) {
      Task &task = tasks[part.task];
      const int64_t end = task.length + part.tokens;
      for (PoolState &pool : pools) {
        pool.available -= pagesOf(end) - pagesOf(task.length);
        ASSERT_GE(pool.available, 0) << "pages that are not there";
      }
      for (PoolState &pool : pools) { // what no later position sees goes back
        const int64_t before = heldPages(pool, task.length) + pagesOf(end) - pagesOf(task.length);
        pool.available += before - heldPages(pool, end);
      }
      task.length = end;
      task.pending -= part.tokens;
      if (task.pending > 0)
        continue;
      task.pending = 1;
      task.writing = true;
      task.everyRow = false;
      shares[task.key].served += 2;
      if (--toWrite[task.arrival] == 0)
        done.push_back(task.arrival);
    }
    for (uint64_t arrival : done) {
      auto task = std::find_if(tasks.begin(), tasks.end(),
                               [&](const Task &t) { return t.arrival == arrival; });
      stop(*task);
      tasks.erase(task);
      ++finished;
    }
  }

  Options options;
  std::mt19937 random;
  Scheduler scheduler;
  StepCosts costs;
  std::vector<PoolState> pools;
  std::vector<Share> shares;
  std::vector<Task> tasks;
  std::map<uint64_t, int64_t> toWrite;
  int32_t arrived = 0, finished = 0;
};

TEST(SchedulerLoad, KeepsItsPromises) {
  int64_t preemptions = 0, chunks = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    Load load({}, seed);
    ASSERT_NO_FATAL_FAILURE(load.play()) << "seed " << seed;
    preemptions += load.preemptions;
    chunks += load.chunks;
  }
  EXPECT_GT(chunks, 0);
  EXPECT_GT(preemptions, 0); // else the pools are too large to say anything
}

TEST(SchedulerLoad, WorksInTheSmallestPools) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    Load::Options options;
    options.globalPages = pagesOf(options.longestPrompt + options.longestAnswer);
    options.chunkedPages = 4; // a chunk and two
    Load load(options, seed);
    ASSERT_NO_FATAL_FAILURE(load.play()) << "seed " << seed;
  }
}

TEST(SchedulerLoad, ServesKeysAndPriorities) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    Load::Options options;
    options.keys = 4;
    options.priorities = 3;
    options.arrivalsPerStep = 0.9;
    options.limits.maxPerKey = 2;
    Load load(options, seed);
    ASSERT_NO_FATAL_FAILURE(load.play()) << "seed " << seed;
  }
}

} // namespace
} // namespace moe::server
