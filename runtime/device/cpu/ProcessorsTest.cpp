// Machines and control groups are folders that look like /proc and /sys.
#include "runtime/device/cpu/Processors.h"

#include "runtime/device/TestSystem.h"

#include <cerrno>

using namespace moe;
using namespace moe::cpu;

namespace {

class Processors : public MadeUpSystem {};

TEST_F(Processors, ThisMachine) {
  const std::vector<int> allowed = allowedProcessors();
  EXPECT_GE(coresOf(allowed), 1);
  EXPECT_LE(coresOf(allowed), int(allowed.size()));
  EXPECT_GE(defaultThreads(), 1);
  EXPECT_LE(defaultThreads(), int(allowed.size()));
}

TEST_F(Processors, WhereTheSystemDoesNotSay) {
  for (int error : {EPERM, EINVAL, ENOSYS})
    withoutCall(SYS_sched_getaffinity, error,
                [] { return allowedProcessors() == std::vector{0} && defaultThreads() == 1; });
}

TEST_F(Processors, ThreadsWithinTheQuota) {
  const int cores = defaultThreads(root); // nothing is known of any: each processor counts
  EXPECT_EQ(cores, int(allowedProcessors().size()));
  for (auto [quota, threads] :
       {std::pair("1000 100000\n", 1),   // a hundredth of a core
        std::pair("50000 100000\n", 1),  // half of one
        std::pair("100000 100000\n", 1), // one
        std::pair("110000 100000\n", std::min(cores, 2)), std::pair("99999900000 100000\n", cores),
        std::pair("max 100000\n", cores)}) {
    write("/sys/fs/cgroup/cpu.max", quota);
    EXPECT_EQ(defaultThreads(root), threads) << quota;
  }
}

TEST_F(Processors, SiblingsAreOneCore) {
  const auto siblings = [&](int processor, const std::string &list) {
    write("/sys/devices/system/cpu/cpu" + std::to_string(processor) +
              "/topology/thread_siblings_list",
          list + "\n");
  };
  siblings(0, "0,4");
  siblings(4, "0,4");
  siblings(1, "1,5");
  EXPECT_EQ(coresOf(std::vector{0, 1, 4}, root), 2);
  EXPECT_EQ(coresOf(std::vector{4}, root), 1);
  EXPECT_EQ(coresOf(std::vector{0, 1, 2, 3, 4}, root), 4); // of 2 and 3 nothing is known
}

TEST_F(Processors, NoGroupNoLimit) {
  EXPECT_FALSE(processorQuota(root));
  write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  write("/proc/self/cgroup", "0::/\n");
  EXPECT_FALSE(processorQuota(root));
}

TEST_F(Processors, QuotaOfAContainer) {
  write("/sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_EQ(processorQuota(root), 1.5);
  // The group has the name that it has outside, where there is nothing.
  write("/proc/self/cgroup", "0::/../../outside/that\n");
  EXPECT_EQ(processorQuota(root), 1.5);
}

TEST_F(Processors, LeastOfTheGroupsAbove) {
  write("/proc/self/cgroup", "0::/system.slice/moe.service\n");
  write("/sys/fs/cgroup/system.slice/cpu.max", "50000 100000\n");
  write("/sys/fs/cgroup/system.slice/moe.service/cpu.max", "400000 100000\n");
  EXPECT_EQ(processorQuota(root), 0.5);
}

TEST_F(Processors, QuotaOfVersion1) {
  write("/proc/self/cgroup", "5:memory:/other\n4:cpu,cpuacct:/jobs/1\n0::/\n");
  write("/sys/fs/cgroup/cpu/jobs/1/cpu.cfs_quota_us", "250000\n");
  write("/sys/fs/cgroup/cpu/jobs/1/cpu.cfs_period_us", "100000\n");
  write("/sys/fs/cgroup/cpu/other/cpu.cfs_quota_us", "1000\n");
  write("/sys/fs/cgroup/cpu/other/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(processorQuota(root), 2.5);
}

TEST_F(Processors, DamagedFilesAreNoLimit) {
  for (const char *text : {"", "\n", "abc\n", "100000\n", "0 100000\n", "-5 100000\n", "100000 0\n",
                           "100000 -1\n", "nan nan\n", "99999999999999999999999 100000\n"}) {
    write("/sys/fs/cgroup/cpu.max", text);
    const auto quota = processorQuota(root);
    EXPECT_TRUE(!quota || *quota > 1e9) << text;
  }
  write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  for (const char *text : {"", ":", "::", "no colons", "0::", "0:cpu", "x:cpu:", "0::nowhere"}) {
    write("/proc/self/cgroup", text);
    EXPECT_FALSE(processorQuota(root)) << text;
  }
}

} // namespace
