// Nodes are made up; memory, threads and their placement are this machine's.
#include "runtime/device/cpu/WeightPlacement.h"

#include "runtime/device/TestSystem.h"
#include "runtime/device/cpu/Processors.h"

#include <cerrno>
#include <cstring>
#include <set>

using namespace moe;
using namespace moe::cpu;

namespace {

constexpr uint64_t kGib = uint64_t(1) << 30;

std::vector<Node> nodesWith(const std::vector<uint64_t> &gibibytes) {
  std::vector<Node> nodes;
  for (uint64_t available : gibibytes)
    nodes.push_back({int(nodes.size()), {int(nodes.size())}, available * kGib});
  return nodes;
}

Placement placementOf(Numa asked, uint64_t weights, const std::vector<uint64_t> &nodes,
                      uint64_t available) {
  auto chosen = choosePlacement(asked, weights * kGib, kGib, nodesWith(nodes), available * kGib);
  EXPECT_TRUE(chosen) << chosen.error().message;
  return chosen ? *chosen : Placement();
}

TEST(WeightPlacement, OneNodeNeedsNone) {
  EXPECT_EQ(placementOf(Numa::Auto, 10, {100}, 100).kind, Numa::Off);
  EXPECT_EQ(placementOf(Numa::Auto, 10, {}, 100).kind, Numa::Off);
  EXPECT_EQ(placementOf(Numa::Auto, 10, {100}, 100).reason, "");
  EXPECT_EQ(placementOf(Numa::Off, 10, {100, 100}, 200).kind, Numa::Off);
  EXPECT_EQ(placementOf(Numa::Off, 10, {100, 100}, 200).reason, "");
  EXPECT_EQ(placementOf(Numa::Interleave, 10, {100}, 100).kind, Numa::Interleave);
  EXPECT_EQ(placementOf(Numa::Replicate, 10, {100}, 100).kind, Numa::Replicate);
}

TEST(WeightPlacement, NothingIsCopiedWithoutWeights) {
  for (Numa asked : {Numa::Auto, Numa::Interleave, Numa::Replicate}) {
    EXPECT_EQ(placementOf(asked, 0, {100, 100}, 200).kind, Numa::Off);
    EXPECT_EQ(placementOf(asked, 0, {100, 100}, 200).reason, "");
  }
}

TEST(WeightPlacement, AutoTakesWhatFits) {
  EXPECT_EQ(placementOf(Numa::Auto, 20, {100, 100}, 200).kind, Numa::Replicate);
  EXPECT_EQ(placementOf(Numa::Auto, 60, {100, 100}, 200).kind, Numa::Interleave);
  EXPECT_EQ(placementOf(Numa::Auto, 20, {100, 30}, 130).kind, Numa::Interleave);
  EXPECT_EQ(placementOf(Numa::Auto, 20, {100, 100}, 50).kind, Numa::Interleave); // a control group
  const Placement none = placementOf(Numa::Auto, 120, {100, 100}, 200);
  EXPECT_EQ(none.kind, Numa::Off);
  EXPECT_EQ(none.reason, "a copy of 120.0 GiB is more than half of the 200.0 GiB available");
}

TEST(WeightPlacement, SaysWhatDoesNotFit) {
  const auto errorOf = [](Numa asked, uint64_t weights, const std::vector<uint64_t> &nodes,
                          uint64_t available, uint64_t others = 1) {
    auto chosen =
        choosePlacement(asked, weights * kGib, others * kGib, nodesWith(nodes), available * kGib);
    EXPECT_FALSE(chosen);
    EXPECT_EQ(chosen.error().code, Code::ResourceExhausted);
    return chosen ? "" : chosen.error().message;
  };
  EXPECT_EQ(errorOf(Numa::Interleave, 60, {40, 20}, 55),
            "--numa interleave copies 60.0 GiB of weights beside 1.0 GiB of keys, values and "
            "activations, and 55.0 GiB are available; --numa off reads the plan's own");
  EXPECT_EQ(errorOf(Numa::Replicate, 30, {40, 20}, 60, 0),
            "--numa replicate copies 30.0 GiB of weights to each of 2 nodes, and node 1 has 20.0 "
            "GiB available; --numa interleave takes one copy, --numa off none");
  EXPECT_EQ(errorOf(Numa::Replicate, 30, {40, 40}, 60),
            "--numa replicate copies 30.0 GiB of weights to each of 2 nodes beside 1.0 GiB of "
            "keys, values and activations, and 60.0 GiB are available; --numa interleave takes one "
            "copy, --numa off none");
}

TEST(WeightPlacement, WithoutNodesThereIsNothingToChoose) {
  for (Numa asked : {Numa::Interleave, Numa::Replicate}) {
    const Placement placement = placementOf(asked, 10, {}, 100);
    EXPECT_EQ(placement.kind, Numa::Off);
    EXPECT_EQ(placement.reason, "the system tells of no memory nodes");
  }
}

// A plan that reads two of three sections, one of them longer than a piece.
struct Sections {
  std::vector<std::byte> first, second, third;
  DevicePlan plan;
  Sections() : first(5000000), second(100), third(4096) {
    for (size_t i = 0; i < first.size(); ++i)
      first[i] = std::byte(i * 31 >> 3);
    for (size_t i = 0; i < third.size(); ++i)
      third[i] = std::byte(i + 1);
    plan.sections = {first, second, third};
    plan.programs = {{1, 1}};
    plan.programs[0].calls = {
        {0, {{OperandKind::Weight, 2, 0}, {OperandKind::Weight, 0, 4096}, {OperandKind::Arena}}},
        {0, {{OperandKind::Weight, 7}}}}; // refused elsewhere
  }
};

// As many made-up nodes as this machine has processors, one beside each, all on its first node.
std::vector<Node> nodesHere() {
  std::vector<Node> nodes;
  for (int processor : allowedProcessors())
    nodes.push_back({0, {processor}, 64 * kGib});
  return nodes;
}

PlacedWeights placed(const DevicePlan &plan, Numa kind, std::span<const Node> nodes,
                     ThreadPool &threads, const PlacedWeights::Progress &progress = nullptr) {
  auto weights = PlacedWeights::create(plan, {kind, ""}, nodes, threads, progress);
  EXPECT_TRUE(weights) << weights.error().message;
  return std::move(*weights);
}

TEST(WeightPlacement, CountsWhatProgramsRead) {
  EXPECT_EQ(weightBytes(Sections().plan), 5000000u + 4096u);
  EXPECT_EQ(weightBytes(DevicePlan()), 0u);
}

TEST(WeightPlacement, OffReadsThePlan) {
  const Sections sections;
  auto threads = ThreadPool::create(2);
  const PlacedWeights weights = placed(sections.plan, Numa::Off, {}, **threads);
  ASSERT_EQ(weights.copies(), 1u);
  EXPECT_EQ(weights.sections(0)[0], sections.first.data());
  EXPECT_EQ(weights.sections(0)[2], sections.third.data());
  EXPECT_EQ(weights.nearest(1), 0u);
  EXPECT_EQ(weights.description(), "");
}

TEST(WeightPlacement, CopiesAreTheSame) {
  const Sections sections;
  const std::vector<Node> nodes = nodesHere();
  for (Numa kind : {Numa::Interleave, Numa::Replicate}) {
    auto threads = ThreadPool::create(3);
    uint64_t last = 0;
    bool grows = true;
    const PlacedWeights weights =
        placed(sections.plan, kind, nodes, **threads, [&](uint64_t done, uint64_t total) {
          grows = grows && done <= total && total == 5004096;
          last = done;
        });
    if (weights.description().find("mbind") != std::string::npos)
      GTEST_SKIP() << weights.description();
    EXPECT_TRUE(grows);
    EXPECT_EQ(last, 5004096u);
    const size_t count = kind == Numa::Interleave ? 1 : nodes.size();
    const std::string over =
        std::to_string(nodes.size()) + (nodes.size() == 1 ? " node" : " nodes");
    EXPECT_EQ(weights.description(), kind == Numa::Interleave ? "weights interleaved over " + over
                                                              : "weights replicated on " + over);
    ASSERT_EQ(weights.copies(), count);
    std::set<std::byte *> places;
    for (size_t copy = 0; copy < count; ++copy) {
      const std::vector<std::byte *> &set = weights.sections(copy);
      ASSERT_EQ(set.size(), 3u);
      EXPECT_EQ(set[1], nullptr);
      EXPECT_TRUE(std::equal(sections.first.begin(), sections.first.end(), set[0]));
      EXPECT_TRUE(std::equal(sections.third.begin(), sections.third.end(), set[2]));
      EXPECT_NE(set[0], sections.first.data());
      places.insert(set[0]);
    }
    EXPECT_EQ(places.size(), count);
  }
}

TEST(WeightPlacement, WorkersReadTheCopyBesideThem) {
  const Sections sections;
  const std::vector<Node> nodes = nodesHere();
  if (nodes.size() < 2)
    GTEST_SKIP() << "needs two processors";
  const std::vector<int> before = allowedProcessors();
  const int workers = int(2 * nodes.size());
  auto threads = ThreadPool::create(workers);
  const PlacedWeights weights = placed(sections.plan, Numa::Replicate, nodes, **threads);
  if (weights.copies() == 1)
    GTEST_SKIP() << weights.description();
  struct Seen {
    const PlacedWeights &weights;
    std::vector<size_t> copies;
    std::vector<std::vector<int>> processors;
  } seen{weights, std::vector<size_t>(workers), std::vector<std::vector<int>>(workers)};
  (*threads)->run(
      [](void *context, int worker) {
        auto &seen = *static_cast<Seen *>(context);
        seen.copies[worker] = seen.weights.nearest(worker);
        seen.processors[worker] = allowedProcessors();
      },
      &seen);
  std::vector<int> count(nodes.size());
  for (int worker = 1; worker < workers; ++worker) {
    EXPECT_EQ(seen.processors[worker], nodes[seen.copies[worker]].processors);
    ++count[seen.copies[worker]];
  }
  // Worker 0 is the caller, and goes where it likes.
  EXPECT_EQ(seen.processors[0], before);
  EXPECT_LT(seen.copies[0], nodes.size());
  EXPECT_EQ(count[0], 1);
  for (size_t i = 1; i < count.size(); ++i)
    EXPECT_EQ(count[i], 2);
  EXPECT_EQ(allowedProcessors(), before);
}

TEST(WeightPlacement, RunsWhereTheSystemDoesNotPlaceMemory) {
  for (int error : {EPERM, ENOSYS})
    withoutCall(SYS_mbind, error, [error] {
      const Sections sections;
      bool well = true;
      for (Numa kind : {Numa::Interleave, Numa::Replicate}) {
        auto threads = ThreadPool::create(2);
        const PlacedWeights weights = placed(sections.plan, kind, nodesHere(), **threads);
        well = well && weights.copies() == 1 && weights.sections(0)[0] == sections.first.data() &&
               weights.description() == "weights where they were read (the system refuses mbind: " +
                                            std::string(std::strerror(error)) + ")";
      }
      return well;
    });
}

} // namespace
