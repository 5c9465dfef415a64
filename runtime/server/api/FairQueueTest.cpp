#include "runtime/server/api/FairQueue.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

namespace moe::server::api {
namespace {

// Works off what is there, where work of a key takes what the test says, and writes down whose it
// was.
std::string order(FairQueue &queue, const std::map<std::string, double> &seconds,
                  size_t most = 1000) {
  std::string keys;
  while (!queue.empty() && most-- > 0) {
    const FairQueue::Work work = queue.take();
    work.call();
    queue.charge(work.key, seconds.at(work.key));
    keys += work.key;
  }
  return keys;
}

TEST(FairQueue, KeepsTheOrderOfOneKey) {
  FairQueue queue;
  std::vector<int> done;
  for (int i = 0; i < 5; ++i)
    queue.add("", [&done, i] { done.push_back(i); });
  EXPECT_EQ(queue.waiting(), 5u);
  EXPECT_EQ(queue.waiting(""), 5u);
  EXPECT_EQ(queue.waiting("a"), 0u);
  order(queue, {{"", 5}});
  EXPECT_EQ(done, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(FairQueue, AKeyWhoseWorkIsLongDelaysOthersByOneOfIt) {
  FairQueue queue;
  for (int i = 0; i < 64; ++i)
    queue.add("a", [] {});
  EXPECT_EQ(order(queue, {{"a", 5}}, 1), "a");
  for (int i = 0; i < 3; ++i)
    queue.add("b", [] {});
  queue.add("c", [] {});
  EXPECT_EQ(order(queue, {{"a", 5}, {"b", 0.01}, {"c", 2}}, 6), "bcbbaa");
}

TEST(FairQueue, NobodySavesUpWhatIsNotUsed) {
  FairQueue queue;
  for (int i = 0; i < 100; ++i)
    queue.add("a", [] {});
  order(queue, {{"a", 1}}, 50);
  for (int i = 0; i < 10; ++i) // has had nothing for 50 s
    queue.add("b", [] {});
  EXPECT_EQ(order(queue, {{"a", 1}, {"b", 1}}, 8), "babababa");
}

TEST(FairQueue, WhoComesBackHasHadWhatItHad) {
  FairQueue queue;
  queue.add("a", [] {});
  queue.add("b", [] {});
  queue.add("b", [] {});
  EXPECT_EQ(order(queue, {{"a", 5}, {"b", 0.1}}, 2), "ab");
  queue.add("a", [] {}); // not before what waits
  EXPECT_EQ(order(queue, {{"a", 5}, {"b", 0.1}}), "ba");
}

// Of keys that always have work each gets the same time, whatever its work takes.
TEST(FairQueue, SharesTimeEqually) {
  std::mt19937 random(7);
  FairQueue queue;
  const std::map<std::string, double> longest{{"a", 0.1}, {"b", 1}, {"c", 5}};
  std::map<std::string, double> had;
  for (const auto &[key, seconds] : longest)
    queue.add(key, [] {});
  for (int i = 0; i < 20'000; ++i) {
    const FairQueue::Work work = queue.take();
    const double seconds = longest.at(work.key) * std::uniform_real_distribution<>(0, 1)(random);
    had[work.key] += seconds;
    queue.add(work.key, [] {});
    queue.charge(work.key, seconds);
  }
  EXPECT_NEAR(had["a"], had["b"], 10);
  EXPECT_NEAR(had["a"], had["c"], 10);
}

} // namespace
} // namespace moe::server::api
