#include "runtime/device/cpu/FeatureProbe.h"

#include "runtime/device/cpu/CpuFeatures.h"

#include <csignal>
#include <cstdlib>
#include <gtest/gtest.h>
#include <thread>

using namespace moe::cpu;

namespace {

void undefined() {
#if defined(__x86_64__)
  asm volatile("ud2");
#elif defined(__aarch64__)
  asm volatile(".inst 0x00000000"); // udf #0
#else
  raise(SIGILL);
#endif
}

void nothing() {}

void expectDefaultAction() {
  struct sigaction action = {};
  ASSERT_EQ(sigaction(SIGILL, nullptr, &action), 0);
  EXPECT_EQ(action.sa_handler, SIG_DFL);
}

TEST(FeatureProbe, KnowsWhatTheProcessorRefuses) {
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(executes(nothing));
    EXPECT_FALSE(executes(undefined));
  }
  expectDefaultAction();
}

TEST(FeatureProbe, ThisProcessorKeepsItsWord) {
  EXPECT_EQ(notExecuted(hostFeatures()), std::vector<std::string>());
  // What it has no instruction for is believed.
  EXPECT_EQ(notExecuted(std::vector<std::string>{"x86_64", "avx4096"}), std::vector<std::string>());
}

TEST(FeatureProbe, WhereTheSignalIsBlocked) {
  sigset_t illegal, blocked, after;
  sigemptyset(&illegal);
  sigaddset(&illegal, SIGILL);
  pthread_sigmask(SIG_BLOCK, &illegal, &blocked);
  EXPECT_FALSE(executes(undefined));
  EXPECT_TRUE(executes(nothing));
  pthread_sigmask(SIG_SETMASK, &blocked, &after);
  EXPECT_TRUE(sigismember(&after, SIGILL));
}

TEST(FeatureProbe, FromSeveralThreads) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round)
        wrong += !executes(nothing) + executes(undefined);
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
  expectDefaultAction();
}

// The program's own handler stays, and gets the signals of threads that try nothing.
TEST(FeatureProbe, LeavesTheProgramsAction) {
  static std::atomic<int> seen{0};
  struct sigaction own = {}, before = {}, after = {};
  own.sa_handler = [](int) { ++seen; };
  sigaction(SIGILL, &own, &before);
  EXPECT_FALSE(executes(undefined));
  EXPECT_EQ(seen, 0);
  executes([] {
    std::thread([] { raise(SIGILL); }).join(); // taken from us, then given to it
    std::thread([] { raise(SIGILL); }).join();
  });
  EXPECT_GE(seen, 1);
  sigaction(SIGILL, &before, &after);
  EXPECT_EQ(after.sa_handler, own.sa_handler);
}

TEST(FeatureProbeDeathTest, OtherThreadsStillDie) {
  EXPECT_EXIT(executes([] { std::thread(undefined).join(); }), testing::KilledBySignal(SIGILL), "");
}

} // namespace
