// The governor on machines that are made up: a step takes as long as the model of one says.
#include "runtime/device/cpu/WorkerGovernor.h"

#include <cmath>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <random>

using namespace moe::cpu;

namespace {

// Seconds that a step takes with so many workers, begun at a time.
using Machine = std::function<double(double now, int workers)>;

struct Figures {
  double steps = 0, seconds = 0;
  double all = 0; // seconds with all workers
  double rate() const { return steps / seconds; }
};

// Steps for so many seconds after a start that does not count; `fixed`: with that many workers.
Figures run(const Machine &machine, int most, double seconds, int fixed = 0, double start = 1) {
  WorkerGovernor governor(most);
  Figures counted;
  for (double now = 0; now < start + seconds;) {
    const int workers = fixed ? fixed : governor.workers(7);
    EXPECT_GE(workers, 1);
    EXPECT_LE(workers, most);
    const double took = machine(now, workers);
    governor.ran(7, std::chrono::nanoseconds(int64_t(took * 1e9)));
    now += took;
    if (now < start)
      continue;
    counted.steps += 1;
    counted.seconds += took;
    counted.all += workers == most ? took : 0;
  }
  return counted;
}

double bestFixed(const Machine &machine, int most, double seconds) {
  double best = 0;
  for (int workers = 1; workers <= most; ++workers)
    best = std::max(best, run(machine, most, seconds, workers).rate());
  return best;
}

// A step takes `alone` seconds of one worker. More are faster up to the memory's bandwidth, which
// is that of `enough` workers. Of those beyond the `free` processors one is late at every meeting
// that falls into a slice of another program: `chance` a second, and then `slice` seconds.
struct Shared {
  double alone, enough;
  int free;
  double chance, slice;
  double jitter = 0.05;
  std::shared_ptr<std::mt19937> random = std::make_shared<std::mt19937>(1);

  double operator()(double, int workers) const {
    std::uniform_real_distribution<double> noise(-jitter, jitter), uniform(0, 1);
    const double took = alone / std::min<double>(workers, enough) * (1 + noise(*random));
    const double late = std::max(workers - free, 0) * chance * took;
    return took + (late > 0 ? std::poisson_distribution<int>(late)(*random) * slice : 0);
  }
};

// The first step after a start waits for the plan's file, twenty times as long as the next ones.
TEST(WorkerGovernor, AColdStartDoesNotSpeakForFewerWorkers) {
  for (double alone : {0.01, 0.3}) {
    WorkerGovernor governor(2);
    double all = 0, seconds = 0;
    for (int step = 0; seconds < 20; ++step) {
      const int workers = governor.workers(7);
      const double took = alone / workers * (step ? 1 : 20);
      if (step) {
        seconds += took;
        all += workers == 2 ? took : 0;
      }
      governor.ran(7, std::chrono::nanoseconds(int64_t(took * 1e9)));
    }
    EXPECT_GT(all, 0.9 * seconds) << alone;
  }
}

TEST(WorkerGovernor, OneWorkerIsOne) {
  WorkerGovernor governor(1);
  for (int i = 0; i < 1000; ++i)
    governor.ran(i, std::chrono::nanoseconds(i % 3 ? 1000 : 1000000000));
  EXPECT_EQ(governor.workers(1), 1);
}

TEST(WorkerGovernor, AQuietMachineRunsAll) {
  for (int most : {2, 3, 16})
    for (double jitter : {0.0, 0.1, 0.2}) {
      const Shared quiet{1e-3, 64, most, 0, 0, jitter};
      EXPECT_GE(run(quiet, most, 20).rate(), 0.995 * run(quiet, most, 20, most).rate())
          << most << " workers, jitter " << jitter;
    }
}

TEST(WorkerGovernor, ABusyProcessorIsLeftAlone) {
  const Shared busy{2e-4, 1.4, 1, 1000, 4e-3};
  Figures governed = run(busy, 2, 20);
  EXPECT_GE(governed.rate(), 0.95 * bestFixed(busy, 2, 20));
  EXPECT_LE(governed.all, 0.1 * governed.seconds);
  // Of many, only as many as are in the way.
  for (int free : {1, 4, 14, 15}) {
    const Shared many{2e-2, 32, free, 150, 4e-3};
    EXPECT_GE(run(many, 16, 20).rate(), 0.9 * bestFixed(many, 16, 20)) << free << " free of 16";
  }
}

TEST(WorkerGovernor, ComesBack) {
  const Shared busy{2e-4, 1.4, 1, 150, 4e-3}, quiet{2e-4, 1.4, 2, 0, 0};
  Figures after =
      run([&](double now, int workers) { return (now < 10 ? busy : quiet)(now, workers); }, 2, 5, 0,
          10.5);
  EXPECT_GE(after.all, 0.97 * after.seconds);
}

TEST(WorkerGovernor, FollowsWhatComesAndGoes) {
  const Shared busy{2e-3, 1.7, 1, 150, 4e-3}, quiet{2e-3, 1.7, 2, 0, 0};
  for (double period : {1.0, 4.0}) {
    const Machine turns = [&](double now, int workers) {
      return (std::fmod(now, 2 * period) < period ? busy : quiet)(now, workers);
    };
    EXPECT_GE(run(turns, 2, 40).rate(), 0.95 * bestFixed(turns, 2, 40)) << period;
  }
}

// 150 ms of processor time in each 100 ms: two workers stop for the last quarter, one never does.
TEST(WorkerGovernor, AQuotaTakesFromAll) {
  for (double enough : {1.2, 1.9}) {
    auto spent = std::make_shared<std::pair<int64_t, double>>();
    const Machine quota = [=](double now, int workers) {
      const double took = 1e-3 / std::min<double>(workers, enough);
      if (int64_t period = int64_t(now / 0.1); period != spent->first)
        *spent = {period, 0};
      spent->second += took * workers;
      return spent->second > 0.15 ? (spent->first + 1) * 0.1 - now + took : took;
    };
    EXPECT_GE(run(quota, 2, 20).rate(), 0.95 * bestFixed(quota, 2, 20)) << enough;
  }
}

// Whatever the steps and the machine: nearly as fast as the best that can be known in advance.
TEST(WorkerGovernor, IsNeverMuchSlowerThanAnyNumber) {
  std::mt19937 random(5);
  auto between = [&](double low, double high) {
    return low * std::pow(high / low, std::uniform_real_distribution<double>(0, 1)(random));
  };
  int below = 0;
  for (int round = 0; round < 40; ++round) {
    const int most = 2 + int(random() % 3);
    const Shared machine{between(5e-5, 0.1), between(1.2, most), int(random() % (most + 1)),
                         between(5, 300), between(1e-3, 2e-2)};
    const double best = bestFixed(machine, most, 30), governed = run(machine, most, 30).rate();
    below += governed < 0.9 * best;
    EXPECT_GE(governed, 0.85 * best)
        << "alone " << machine.alone << " enough " << machine.enough << " free " << machine.free
        << " of " << most << " chance " << machine.chance << " slice " << machine.slice;
  }
  EXPECT_LE(below, 1); // by chance, one in 400 is
}

// Steps of other kinds have costs of their own: a long prompt between short steps disturbs nothing.
TEST(WorkerGovernor, KindsAreToldApart) {
  WorkerGovernor governor(2);
  int fewer = 0;
  for (int i = 0; i < 20000; ++i) {
    const int kind = i % 100 == 0 ? 900 : i % 7;
    fewer += governor.workers(uint64_t(kind)) < 2;
    governor.ran(uint64_t(kind), std::chrono::microseconds(100 * (kind + 1)));
  }
  EXPECT_LE(fewer, 20000 / 50);
}

// A trial on a step of a prompt would cost as much as the whole step.
TEST(WorkerGovernor, LongStepsAreNotTriedOn) {
  for (double alone : {0.4, 3.0}) {
    const Shared quiet{alone, 1.9, 2, 0, 0};
    EXPECT_GE(run(quiet, 2, 60, 0, 0).rate(), 0.985 * run(quiet, 2, 60, 2, 0).rate()) << alone;
  }
}

// Nor when they become slower as a sequence grows, which is not another program's doing.
TEST(WorkerGovernor, AGrowingPromptRunsAll) {
  const Machine growing = [](double now, int workers) { return (1 + now / 10) * 0.8 / workers; };
  const Figures governed = run(growing, 2, 60, 0, 0);
  EXPECT_GE(governed.all, 0.93 * governed.seconds);
}

// Short steps are tried on between those of prompts, which run with all meanwhile.
TEST(WorkerGovernor, TriesBetweenLongSteps) {
  WorkerGovernor governor(2);
  std::mt19937 random(3);
  int longWithOne = 0, shortWithOne = 0;
  for (int i = 0; i < 20000; ++i) {
    const bool isLong = random() % 100 == 0;
    const int workers = governor.workers(isLong);
    (isLong ? longWithOne : shortWithOne) += workers == 1;
    governor.ran(isLong, std::chrono::microseconds((isLong ? 1500000 : 5000) / workers));
  }
  EXPECT_LE(longWithOne, 1); // the first, whose cost is not known
  EXPECT_GE(shortWithOne, 1);
}

// Where all are disturbed and all steps are long, fewer workers are found nonetheless.
TEST(WorkerGovernor, FindsFewerWithLongStepsAlone) {
  const Shared busy{0.3, 1.2, 1, 200, 6e-3};
  EXPECT_GE(run(busy, 2, 120, 0, 30).rate(), 0.93 * bestFixed(busy, 2, 60));
}

} // namespace
