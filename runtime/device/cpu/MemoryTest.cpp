#include "runtime/device/cpu/Memory.h"

#include "runtime/device/TestSystem.h"

#include <algorithm>
#include <cerrno>
#include <sys/prctl.h>

using namespace moe;
using namespace moe::cpu;

namespace {

constexpr uint64_t kHuge = uint64_t(2) << 20;

// That it holds zeros, and what is written to it.
bool usable(const Result<Memory> &memory, uint64_t bytes) {
  if (!memory || memory->bytes().size() < bytes)
    return false;
  const std::span<std::byte> all = memory->bytes();
  const bool zeros =
      std::all_of(all.begin(), all.end(), [](std::byte b) { return b == std::byte(0); });
  std::fill(all.begin(), all.end(), std::byte(7));
  return zeros && all.front() == std::byte(7) && all.back() == std::byte(7);
}

TEST(Memory, IsZeroedAndAligned) {
  for (uint64_t bytes : {uint64_t(1), uint64_t(4096), kHuge - 1, kHuge, 3 * kHuge + 5}) {
    auto memory = Memory::zeroed(bytes, "a test");
    EXPECT_TRUE(usable(memory, bytes)) << bytes;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % (bytes < kHuge ? 4096 : kHuge), 0u);
    EXPECT_TRUE(usable(Memory::zeroed(bytes, "a test", /*large=*/false), bytes)) << bytes;
  }
  auto none = Memory::zeroed(0, "a test");
  ASSERT_TRUE(none);
  EXPECT_TRUE(none->bytes().empty());
  none->protect();
}

TEST(Memory, SaysWhatDidNotFit) {
  for (uint64_t bytes : {uint64_t(1) << 60, UINT64_MAX}) {
    auto memory = Memory::zeroed(bytes, "the arena");
    ASSERT_FALSE(memory);
    EXPECT_EQ(memory.error().code, Code::ResourceExhausted);
    EXPECT_EQ(memory.error().message,
              "cannot allocate " + std::to_string(bytes) + " bytes for the arena");
  }
}

// Huge pages are a wish.
TEST(Memory, WithoutHugePages) {
  const auto works = [] { return usable(Memory::zeroed(3 * kHuge, "a test"), 3 * kHuge); };
  withoutCall(SYS_madvise, EINVAL, works); // a kernel that knows none
}

TEST(Memory, WithHugePagesTurnedOff) {
  const auto child = [] {
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    std::_Exit(usable(Memory::zeroed(3 * kHuge, "a test"), 3 * kHuge) ? 0 : 1);
  };
  EXPECT_EXIT(child(), testing::ExitedWithCode(0), "");
}

TEST(MemoryDeathTest, ProtectedIsNotWrittenTo) {
  auto memory = Memory::zeroed(kHuge, "a test");
  ASSERT_TRUE(memory);
  memory->data()[5] = std::byte(1);
  memory->protect();
  EXPECT_EQ(memory->data()[5], std::byte(1));
  EXPECT_DEATH(memory->data()[5] = std::byte(2), "");
}

} // namespace
