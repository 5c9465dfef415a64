#include "runtime/device/SystemMemory.h"

#include "runtime/device/TestSystem.h"

using namespace moe;

namespace {

class SystemMemory : public MadeUpSystem {};

TEST_F(SystemMemory, ThisMachine) { EXPECT_GT(availableMemory(), 0u); }

TEST_F(SystemMemory, LessInAControlGroup) {
  EXPECT_EQ(availableMemory(root), UINT64_MAX);
  write("/proc/meminfo", "MemTotal: 4000 kB\nMemFree: 1 kB\nMemAvailable:    3000 kB\n");
  EXPECT_EQ(availableMemory(root), 3000u << 10);
  write("/sys/fs/cgroup/memory.max", "max\n");
  write("/sys/fs/cgroup/memory.current", "1000\n");
  EXPECT_EQ(availableMemory(root), 3000u << 10);
  write("/sys/fs/cgroup/memory.max", "5000\n");
  EXPECT_EQ(availableMemory(root), 4000u);
  write("/sys/fs/cgroup/memory.current", "6000\n");
  EXPECT_EQ(availableMemory(root), 0u);
}

TEST_F(SystemMemory, DamagedFilesSayNothing) {
  for (const char *text :
       {"", "\n", "MemAvailable\n", "MemAvailable: kB\n", "MemAvailable: x kB\n"}) {
    write("/proc/meminfo", text);
    EXPECT_EQ(availableMemory(root), UINT64_MAX) << text;
  }
  write("/proc/meminfo", "MemAvailable: 99999999999999999999999 kB\n");
  EXPECT_GT(availableMemory(root), uint64_t(1) << 60);
}

TEST_F(SystemMemory, IsWrittenForPeople) {
  EXPECT_EQ(mebibytes(0), "0.0 MiB");
  EXPECT_EQ(mebibytes(3 << 19), "1.5 MiB");
  EXPECT_EQ(mebibytes(uint64_t(40) << 30), "40.0 GiB");
}

} // namespace
