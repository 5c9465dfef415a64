// Systems that tests make up: a folder that looks like /proc and /sys, and system calls that fail.
#ifndef MOE_RUNTIME_DEVICE_TESTSYSTEM_H
#define MOE_RUNTIME_DEVICE_TESTSYSTEM_H

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string>
#include <sys/prctl.h>
#include <sys/syscall.h>

namespace moe {

// A test whose `root` is such a folder, empty at first and gone at the end.
class MadeUpSystem : public testing::Test {
protected:
  void SetUp() override {
    const auto *info = testing::UnitTest::GetInstance()->current_test_info();
    root = testing::TempDir() + "moe-" + info->test_suite_name() + "-" + info->name();
    std::filesystem::remove_all(root);
  }
  void TearDown() override { std::filesystem::remove_all(root); }

  void write(const std::string &path, const std::string &text) {
    std::filesystem::create_directories(std::filesystem::path(root + path).parent_path());
    std::ofstream(root + path) << text;
  }

  std::string root;
};

// From now on the system call gives this process `error`, as a sandbox makes it. False where this
// system has no seccomp. There is no way back: for children alone (withoutCall).
inline bool refuseCall(int number, int error) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, uint32_t(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | uint32_t(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{4, filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// Runs `body`, which says whether all was well, in a child to which the system call gives `error`.
template <typename Body> void withoutCall(int number, int error, Body body) {
  constexpr int kNoSeccomp = 77;
  const auto child = [&] { std::_Exit(!refuseCall(number, error) ? kNoSeccomp : body() ? 0 : 1); };
  bool skipped = false;
  EXPECT_EXIT(
      child(),
      [&](int status) {
        skipped = WIFEXITED(status) && WEXITSTATUS(status) == kNoSeccomp;
        return skipped || testing::ExitedWithCode(0)(status);
      },
      "");
  if (skipped)
    GTEST_SKIP() << "this system has no seccomp";
}

} // namespace moe

#endif
