// The tests that every device passes. A device's own test instantiates them:
//
//   INSTANTIATE_TEST_SUITE_P(Null, DeviceSuite, testing::Values(SuiteDevice{"null", open,
//   prepare})); INSTANTIATE_TEST_SUITE_P(Cpu, KernelSuite, ...);  a device that runs kernels, in
//   addition
//
// DeviceSuiteTest.cpp has the tests.
#ifndef MOE_RUNTIME_DEVICE_TESTDEVICESUITE_H
#define MOE_RUNTIME_DEVICE_TESTDEVICESUITE_H

#include "runtime/device/TestPlan.h"

#include <functional>
#include <ostream>

namespace moe {

struct SuiteDevice {
  std::string name; // Device::name
  // Tests are skipped where it says Unavailable.
  std::function<Result<std::unique_ptr<Device>>()> open;
  // Gives a plan of TestPlan.h what it lacks to run on the device: images with its kernels.
  std::function<void(DevicePlan &)> prepare;
  std::string variant{}; // tells instances of one device apart: "2threads"
};

inline void PrintTo(const SuiteDevice &device, std::ostream *out) { *out << device.name; }

// Names the tests of an instance, for the last argument of INSTANTIATE_TEST_SUITE_P.
inline std::string suiteName(const testing::TestParamInfo<SuiteDevice> &info) {
  return info.param.name + info.param.variant;
}

// What needs no kernels: creation, checks, sizes.
class DeviceSuite : public testing::TestWithParam<SuiteDevice> {
protected:
  void SetUp() override {
    auto opened = GetParam().open();
    if (!opened && opened.error().code == Code::Unavailable)
      GTEST_SKIP() << opened.error().message;
    ASSERT_TRUE(opened) << opened.error().message;
    device = std::move(*opened);
  }
  DevicePlan prepared(DevicePlan plan) const {
    GetParam().prepare(plan);
    return plan;
  }
  Result<std::unique_ptr<Executor>>
  create(const DevicePlan &plan, const ExecutorOptions &options = testplan::executorOptions) {
    return device->createExecutor(plan, options);
  }
  // Expects that no executor is made, and for which reason.
  void expectRefused(const DevicePlan &plan, const ExecutorOptions &options, Code code,
                     const std::string &part) {
    auto executor = create(plan, options);
    ASSERT_FALSE(executor) << part;
    EXPECT_EQ(executor.error().code, code) << executor.error().message;
    EXPECT_NE(executor.error().message.find(part), std::string::npos) << executor.error().message;
  }

  std::unique_ptr<Device> device;
};

// What a step computes.
class KernelSuite : public DeviceSuite {};

} // namespace moe

#endif
