// Opening devices by name.
#include "runtime/device/Devices.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

TEST(Devices, OpenByName) {
  const std::vector<std::string> cpu{"cpu"}, cuda{"cuda"};
  EXPECT_EQ((*openDevice("auto", cpu, {}))->name(), "cpu");
  EXPECT_EQ((*openDevice("cpu", cpu, {}))->name(), "cpu");
  EXPECT_EQ(openDevice("gpu", cpu, {}).error().message,
            "unknown device 'gpu'; the devices are auto, cuda, cpu, ptxsim, null");
  for (const char *name :
       {"cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cpu:0", "cuda1", "null:", "nullx"})
    EXPECT_EQ(openDevice(name, cuda, {}).error().code, Code::InvalidArgument) << name;
  EXPECT_EQ(openDevice("cpu", cuda, {}).error().message,
            "the plan has no programs for device cpu, only for cuda; compile it with another "
            "--target");
  const std::vector<std::string> other{"other"};
  EXPECT_EQ(openDevice("auto", other, {}).error().message,
            "no device fits: the plan is for other, this program runs cuda, cpu");
  // "auto" asks whether the plan fits, and never takes a simulator.
  auto unfit = openDevice("auto", cpu, {}, [](const Device &device) -> Status {
    return Error{Code::Unavailable, "no image for " + device.name()};
  });
  EXPECT_EQ(unfit.error().message, "no device fits: the plan is for cpu, this program runs cuda, "
                                   "cpu; cpu: no image for cpu");
  if (auto gpu = openDevice("auto", cuda, {})) {
    EXPECT_EQ((*gpu)->name(), "cuda");
  }
  auto simulator = openDevice("ptxsim", cuda, {});
  ASSERT_TRUE(simulator) << simulator.error().message;
  EXPECT_EQ((*simulator)->name(), "ptxsim");
  EXPECT_EQ((*simulator)->planDevice(), "cuda");
  EXPECT_FALSE(openDevice("ptxsim:1", cuda, {}));
  // The device that runs nothing takes any program, also where the plan has several.
  const std::vector<std::string> both{"cpu", "cuda"};
  EXPECT_EQ((*openDevice("null", cuda, {}))->planDevice(), "cuda");
  EXPECT_EQ((*openDevice("null", both, {}))->planDevice(), "cpu");
  EXPECT_EQ((*openDevice("null:cuda", both, {}))->planDevice(), "cuda");
  EXPECT_EQ(openDevice("null:cuda", cpu, {}).error().message,
            "the plan has no programs for device cuda, only for cpu; compile it with another "
            "--target");
  EXPECT_EQ(openDevice("null", {}, {}).error().code, Code::Unavailable);
}

} // namespace
