// Nodes are made up as folders that look like /sys; memory is placed on those of this machine.
#include "runtime/device/cpu/Nodes.h"

#include "runtime/device/TestSystem.h"
#include "runtime/device/cpu/Memory.h"
#include "runtime/device/cpu/Processors.h"

#include <cerrno>
#include <cstring>
#include <linux/mempolicy.h>
#include <random>
#include <sched.h>
#include <thread>
#include <unistd.h>

using namespace moe;
using namespace moe::cpu;

namespace {

using Numbers = std::vector<int>;

TEST(Numbers, OfLists) {
  EXPECT_EQ(numbersOf(""), Numbers());
  EXPECT_EQ(numbersOf("0"), Numbers{0});
  EXPECT_EQ(numbersOf("0-3,8,10-11"), (Numbers{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_EQ(numbersOf("5-5"), Numbers{5});
  EXPECT_EQ(numbersOf("262143"), Numbers{262143});
}

TEST(Numbers, DamagedLists) {
  for (const char *text :
       {" ",    ",",   "-",     "0,",    ",0",     "0-",          "-1",
        "0--1", "3-1", "0-3-5", "0 1",   "0\n",    "a",           "0x1",
        "0;1",  "1,0", "1,1",   "0-3,2", "262144", "0-999999999", "99999999999999999999",
        "0,,1", "+1"})
    EXPECT_FALSE(numbersOf(text)) << text;
}

// Any text at all: an answer is a list of ascending numbers.
TEST(Numbers, OfAnyText) {
  std::mt19937 random(1);
  constexpr std::string_view letters = "0123456789-,, \n\tx";
  for (int round = 0; round < 100000; ++round) {
    std::string text;
    for (size_t length = random() % 12; text.size() < length;)
      text += letters[random() % letters.size()];
    const auto numbers = numbersOf(text);
    for (size_t i = 1; numbers && i < numbers->size(); ++i)
      ASSERT_LT((*numbers)[i - 1], (*numbers)[i]) << text;
  }
}

class Nodes : public MadeUpSystem {
protected:
  void node(int number, const std::string &processors, uint64_t freeKib) {
    const std::string name = std::to_string(number), folder = nodes + "node" + name;
    write(folder + "/cpulist", processors + "\n");
    write(folder + "/meminfo",
          "Node " + name + " MemTotal:       99999 kB\nNode " + name + " MemFree:        " +
              std::to_string(freeKib) + " kB\nNode " + name + " Active(anon): 5 kB\nNode " + name +
              " Active(file):   20 kB\nNode " + name + " Inactive(file): 3 kB\n");
  }
  const std::string nodes = "/sys/devices/system/node/";
};

TEST_F(Nodes, ThisMachine) {
  const std::vector<int> processors = allowedProcessors();
  const std::vector<Node> nodes = memoryNodes(processors);
  if (nodes.empty())
    GTEST_SKIP() << "this system tells of no memory nodes";
  size_t count = 0;
  for (const Node &node : nodes) {
    EXPECT_GT(node.available, 0u);
    count += node.processors.size();
  }
  EXPECT_EQ(count, processors.size());
}

TEST_F(Nodes, AsTheSystemTells) {
  const Numbers processors{0, 1, 2, 3, 8, 9};
  EXPECT_TRUE(memoryNodes(processors, root).empty());
  write(nodes + "has_memory", "0-1\n");
  node(0, "0-1,8-9", 1000);
  node(1, "2-3,10-11", 2000);
  std::vector<Node> found = memoryNodes(processors, root);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].number, 0);
  EXPECT_EQ(found[0].processors, (Numbers{0, 1, 8, 9}));
  EXPECT_EQ(found[0].available, 1023u << 10);
  EXPECT_EQ(found[1].processors, (Numbers{2, 3}));
  EXPECT_EQ(found[1].available, 2023u << 10);
  // With the affinity mask of one node only that one counts.
  found = memoryNodes(Numbers{2, 3}, root);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].number, 1);
  EXPECT_TRUE(memoryNodes({}, root).empty());
}

TEST_F(Nodes, MemoryThatMayNotBeUsed) {
  write(nodes + "has_memory", "0-1\n");
  node(0, "0-1", 1000);
  node(1, "2-3", 1000);
  write("/proc/self/status", "Name:\tx\nMems_allowed:\t2\nMems_allowed_list:\t1\n");
  const std::vector<Node> found = memoryNodes(Numbers{0, 1, 2, 3}, root);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].number, 1);
  // Every processor counts with some node.
  EXPECT_EQ(found[0].processors, (Numbers{0, 1, 2, 3}));
}

TEST_F(Nodes, ProcessorsWithoutMemoryAndMemoryWithoutProcessors) {
  write(nodes + "has_memory", "0,2-3\n"); // node 1 has none, node 3 is an expander
  node(0, "0-1", 1000);
  node(1, "2-3", 0);
  node(2, "4-5", 1000);
  node(3, "", 9000);
  const std::vector<Node> found = memoryNodes(Numbers{0, 1, 2, 3, 4, 5}, root);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].processors, (Numbers{0, 1, 2, 3}));
  EXPECT_EQ(found[1].number, 2);
  EXPECT_EQ(found[1].processors, (Numbers{4, 5}));
}

TEST_F(Nodes, DamagedFiles) {
  const Numbers processors{0, 1};
  for (const char *text : {"", "\n", "x\n", "0-\n", "5000\n", "99999999999\n"}) {
    write(nodes + "has_memory", text);
    EXPECT_TRUE(memoryNodes(processors, root).empty()) << text;
  }
  write(nodes + "has_memory", "0\n");
  EXPECT_TRUE(memoryNodes(processors, root).empty()); // no such folder
  node(0, "damaged", 5);
  EXPECT_TRUE(memoryNodes(processors, root).empty());
  node(0, "0-1", 5);
  for (const char *text :
       {"", "Node 0\n", "Node 0 MemFree:\n", "Node 0 MemFree: x kB\n", "Node 0 MemFree: -5 kB\n",
        "Node 1 MemFree: 5 kB\n", "Node 0 MemFree: 99999999999999999999999 kB\n"}) {
    write(nodes + "node0/meminfo", text);
    const std::vector<Node> found = memoryNodes(processors, root);
    ASSERT_EQ(found.size(), 1u) << text;
    EXPECT_EQ(found[0].available, 0u) << text;
  }
  for (const char *text : {"", "Mems_allowed_list:\n", "Mems_allowed_list:\tx\n"}) {
    write("/proc/self/status", text);
    EXPECT_LE(memoryNodes(processors, root).size(), 1u) << text;
  }
}

TEST_F(Nodes, Names) {
  EXPECT_EQ(numaNamed("auto"), Numa::Auto);
  EXPECT_EQ(numaNamed("off"), Numa::Off);
  EXPECT_EQ(numaNamed("interleave"), Numa::Interleave);
  EXPECT_EQ(numaNamed("replicate"), Numa::Replicate);
  for (const char *name : {"", "on", "Auto", "interleave "})
    EXPECT_FALSE(numaNamed(name)) << name;
}

// The policy of a page and its nodes, as the kernel has them.
std::pair<int, unsigned long> policyOf(const Memory &memory) {
  int mode = -1;
  unsigned long mask[1024 / 8 / sizeof(long)] = {};
  if (syscall(SYS_get_mempolicy, &mode, mask, 1024, memory.data(), MPOL_F_ADDR))
    return {-1, 0};
  return {mode, mask[0]};
}

TEST_F(Nodes, PlaceMemory) {
  const std::vector<Node> nodes = memoryNodes(allowedProcessors());
  auto memory = Memory::zeroed(uint64_t(4) << 20, "a test");
  ASSERT_TRUE(memory);
  if (nodes.empty() || !interleave(memory->bytes(), nodes))
    GTEST_SKIP() << "this system does not place memory";
  unsigned long all = 0;
  for (const Node &node : nodes)
    all |= 1ul << node.number;
  EXPECT_EQ(policyOf(*memory), std::pair(int(MPOL_INTERLEAVE), all));
  ASSERT_TRUE(prefer(memory->bytes(), nodes[0]));
  EXPECT_EQ(policyOf(*memory), std::pair(int(MPOL_PREFERRED), 1ul << nodes[0].number));
  EXPECT_TRUE(interleave({}, nodes));
  std::fill(memory->bytes().begin(), memory->bytes().end(), std::byte(1));
  // A node that there is none of.
  const Status wrong = prefer(memory->bytes(), {1023, {0}, 0});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message, "the system refuses mbind: Invalid argument");
}

TEST_F(Nodes, WhereTheSystemRefuses) {
  for (int error : {EPERM, ENOSYS})
    withoutCall(SYS_mbind, error, [error] {
      auto memory = Memory::zeroed(8192, "a test");
      const Status status = interleave(memory->bytes(), std::vector<Node>{{0, {0}, 0}});
      return !status && status.error().code == Code::Unavailable &&
             status.error().message ==
                 std::string("the system refuses mbind: ") + std::strerror(error);
    });
}

TEST_F(Nodes, ThreadsRunOnOne) {
  const std::vector<int> before = allowedProcessors();
  std::thread([&] {
    EXPECT_TRUE(runOn({0, {before.back()}, 0}));
    EXPECT_EQ(allowedProcessors(), Numbers{before.back()});
    EXPECT_EQ(sched_getcpu(), before.back());
    EXPECT_FALSE(runOn({0, {100000}, 0})); // there is none of that number
    EXPECT_EQ(allowedProcessors(), Numbers{before.back()});
    EXPECT_TRUE(runOn({0, before, 0}));
  }).join();
  EXPECT_EQ(allowedProcessors(), before);
}

} // namespace
