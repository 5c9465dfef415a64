// The small plan of runtime/device/TestPlan.h with an image for CUDA whose PTX is empty: for
// drivers of tests, which bring the kernels.
#ifndef MOE_RUNTIME_DEVICE_CUDA_TESTPLAN_H
#define MOE_RUNTIME_DEVICE_CUDA_TESTPLAN_H

#include "runtime/device/TestPlan.h"

namespace moe::cuda::testplan {

using namespace moe::testplan;

inline constexpr std::string_view ptx(".version 8.7\n.target sm_90a\n\0", 29);

inline void addImage(DevicePlan &plan) {
  Image image;
  image.target = "cuda:sm_90a";
  image.features = {"cuda", "sm_90a"};
  image.code = std::as_bytes(std::span(ptx));
  image.entries = {0, Image::absent, 0, 0, 0};
  image.launches = {
      {128, 0, 2, false}, {}, {256, 100000, 3, true}, {64, 1024, 8, true}, {64, 0, 8, true}};
  plan.images = {image};
}

inline DevicePlan cudaPlan() {
  DevicePlan plan = handMadePlan();
  addImage(plan);
  return plan;
}

} // namespace moe::cuda::testplan

#endif
