// CudaDevice with kernels in PTX, on the simulator and on this machine's GPU where it has one: the
// tests of all devices, and what is PTX's own.
#include "runtime/device/Devices.h"
#include "runtime/device/TestDeviceSuite.h"
#include "runtime/device/cuda/TestKernels.h"
#include "runtime/device/cuda/TestPlan.h"
#include "runtime/device/ptxsim/Driver.h"

#include <gtest/gtest.h>

using namespace moe;
using namespace cuda::testplan;

namespace {

// %i and on count this thread's share of %n items. WAIT is for what a kernel before it writes.
constexpr const char *kKernels = R"(
.visible .entry embed(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 info)
{
  .reg .pred %p; .reg .b32 %i, %n, %step, %t<4>; .reg .b64 %a, %b, %c, %info, %d<4>; .reg .f32 %f;
  ld.param.u64 %a, [a]; ld.param.u64 %b, [b]; ld.param.u64 %c, [c]; ld.param.u64 %info, [info];
  ld.global.u32 %n, [%info];
  mov.u32 %t0, %tid.x; mov.u32 %t1, %ctaid.x; mov.u32 %t2, %ntid.x; mov.u32 %t3, %nctaid.x;
  mad.lo.s32 %i, %t1, %t2, %t0;
  mul.lo.s32 %step, %t2, %t3;
LOOP:
  setp.ge.s32 %p, %i, %n;
  @%p bra END;
  mul.wide.s32 %d0, %i, 4;
  add.s64 %d1, %a, %d0;
  ld.global.u32 %t0, [%d1];
  mul.wide.s32 %d2, %t0, 4;
  add.s64 %d2, %b, %d2;
  ld.global.f32 %f, [%d2];
  add.s64 %d3, %c, %d0;
  st.global.f32 [%d3], %f;
  add.s32 %i, %i, %step;
  bra LOOP;
END:
  ret;
}

.visible .entry head(.param .u64 positions, .param .u64 sequences, .param .u64 table,
                     .param .u64 cache, .param .u64 arena, .param .u64 rows, .param .u64 logits,
                     .param .u64 counters, .param .u64 info)
{
  .reg .pred %p; .reg .b32 %i, %n, %step, %stride, %r, %v, %token, %last, %base, %q, %sum, %t<4>;
  .reg .b64 %positions, %sequences, %table, %cache, %arena, %rows, %logits, %counters, %info, %d<4>;
  .reg .f32 %f<3>;
  ld.param.u64 %positions, [positions]; ld.param.u64 %sequences, [sequences];
  ld.param.u64 %table, [table]; ld.param.u64 %cache, [cache]; ld.param.u64 %arena, [arena];
  ld.param.u64 %rows, [rows]; ld.param.u64 %logits, [logits]; ld.param.u64 %counters, [counters];
  ld.param.u64 %info, [info];
  WAIT
  ld.global.u32 %n, [%info+4];
  shl.b32 %n, %n, 3;
  ld.global.u32 %stride, [%info+8];
  mov.u32 %t0, %tid.x; mov.u32 %t1, %ctaid.x; mov.u32 %t2, %ntid.x; mov.u32 %t3, %nctaid.x;
  mad.lo.s32 %i, %t1, %t2, %t0;
  mul.lo.s32 %step, %t2, %t3;
LOOP:
  setp.ge.s32 %p, %i, %n;
  @%p bra END;
  shr.u32 %r, %i, 3;
  and.b32 %v, %i, 7;
  mul.wide.s32 %d0, %r, 4;
  add.s64 %d0, %rows, %d0;
  ld.global.u32 %token, [%d0];
  mul.wide.s32 %d1, %token, 4;
  add.s64 %d0, %positions, %d1;
  ld.global.u32 %last, [%d0];
  add.s64 %d0, %sequences, %d1;
  ld.global.u32 %t0, [%d0];
  mul.lo.s32 %base, %t0, %stride;
  add.s64 %d0, %arena, %d1;
  ld.global.f32 %f0, [%d0];
  mov.u32 %sum, 0;
  mov.u32 %q, 0;
SUM:
  shr.u32 %t0, %q, 6;
  add.s32 %t0, %base, %t0;
  mul.wide.s32 %d2, %t0, 4;
  add.s64 %d2, %table, %d2;
  ld.global.u32 %t1, [%d2];
  and.b32 %t2, %q, 63;
  mad.lo.s32 %t2, %t1, 64, %t2;
  mul.wide.s32 %d3, %t2, 4;
  add.s64 %d3, %cache, %d3;
  ld.global.u32 %t3, [%d3];
  add.s32 %sum, %sum, %t3;
  add.s32 %q, %q, 1;
  setp.le.s32 %p, %q, %last;
  @%p bra SUM;
  mul.lo.s32 %sum, %sum, %v;
  ld.global.u32 %t0, [%counters];
  add.s32 %sum, %sum, %t0;
  cvt.rn.f32.s32 %f1, %sum;
  add.rn.f32 %f2, %f0, %f1;
  mul.wide.s32 %d2, %i, 4;
  add.s64 %d2, %logits, %d2;
  st.global.f32 [%d2], %f2;
  add.s32 %i, %i, %step;
  bra LOOP;
END:
  ret;
}

.visible .entry choose(.param .u64 sampling, .param .u64 ids, .param .u64 info)
{
  .reg .pred %p; .reg .b32 %i, %n, %flags, %id, %t; .reg .b64 %sampling, %ids, %info, %d; .reg .f32 %f;
  ld.param.u64 %sampling, [sampling]; ld.param.u64 %ids, [ids]; ld.param.u64 %info, [info];
  WAIT
  ld.global.u32 %n, [%info+4];
  mov.u32 %i, %tid.x;
  setp.ge.s32 %p, %i, %n;
  @%p bra END;
  mul.wide.s32 %d, %i, 40;
  add.s64 %d, %sampling, %d;
  ld.global.u32 %flags, [%d];
  add.s32 %id, %flags, 1000;
  and.b32 %t, %flags, 2;
  setp.eq.s32 %p, %t, 0;
  @%p bra WRITE;
  ld.global.f32 %f, [%d+4];
  cvt.rzi.s32.f32 %id, %f;
  ld.global.u32 %t, [%d+8];
  add.s32 %id, %id, %t;
  ld.global.u32 %t, [%d+16];
  add.s32 %id, %id, %t;
  ld.global.u32 %t, [%d+24];
  add.s32 %id, %id, %t;
  ld.global.u32 %t, [%d+32];
  add.s32 %id, %id, %t;
WRITE:
  mul.wide.s32 %d, %i, 4;
  add.s64 %d, %ids, %d;
  st.global.u32 [%d], %id;
END:
  ret;
}
)";

std::string kernelsFor(const std::string &target, bool programmatic) {
  std::string text = ".version 7.8\n.target " + target + "\n.address_size 64\n" +
                     cuda::storeKernel("  WAIT") + kKernels;
  for (size_t at; (at = text.find("WAIT")) != std::string::npos;)
    text.replace(at, 4, programmatic ? "griddepcontrol.wait;" : "");
  text.push_back('\0');
  return text;
}

// PTX with programmatic dependencies for GPUs that have them, and without for others.
void addPtx(DevicePlan &plan) {
  static const std::string fast = kernelsFor("sm_90", true), plain = kernelsFor("sm_80", false);
  addImage(plan);
  plan.images.push_back(plan.images[0]);
  plan.images[0].target = "cuda:sm_90";
  plan.images[0].features = {"cuda", "sm_90"};
  plan.images[0].code = std::as_bytes(std::span(fast));
  plan.images[1].target = "cuda:sm_80";
  plan.images[1].features = {"cuda", "sm_80"};
  plan.images[1].code = std::as_bytes(std::span(plain));
  for (KernelLaunch &launch : plan.images[1].launches)
    launch.dependent = false;
}

SuiteDevice deviceNamed(const std::string &name) {
  SuiteDevice suite;
  suite.name = name;
  suite.open = [name] { return openDevice(name, std::vector<std::string>{"cuda"}, {}); };
  suite.prepare = addPtx;
  return suite;
}

INSTANTIATE_TEST_SUITE_P(Cuda, DeviceSuite,
                         testing::Values(deviceNamed("ptxsim"), deviceNamed("cuda")), suiteName);
INSTANTIATE_TEST_SUITE_P(Cuda, KernelSuite,
                         testing::Values(deviceNamed("ptxsim"), deviceNamed("cuda")), suiteName);

class CudaPtxTest : public testing::TestWithParam<const char *> {};

// Several blocks share the work, and the kernels of an older GPU run too.
TEST_P(CudaPtxTest, RunsRaggedStepsWithEachImage) {
  const std::vector<std::string> devices{"cuda"};
  auto device = openDevice(GetParam(), devices, {});
  if (!device && device.error().code == Code::Unavailable)
    GTEST_SKIP() << device.error().message;
  ASSERT_TRUE(device) << device.error().message;
  DevicePlan plan = handMadePlan();
  addPtx(plan);
  for (auto &program : plan.programs)
    program.calls[0].blocks = 2;
  for (int round = 0; round < 2; ++round, plan.images.erase(plan.images.begin())) {
    if (!(*device)->supports(plan))
      continue;
    auto executor = (*device)->createExecutor(plan, executorOptions);
    ASSERT_TRUE(executor) << executor.error().message;
    Tables tables;
    runRaggedSteps(**executor, tables);
  }
}

// A kernel that reads outside of its memory ends the session, with words.
TEST_P(CudaPtxTest, SaysThatAKernelFailed) {
  const std::vector<std::string> devices{"cuda"};
  auto device = openDevice(GetParam(), devices, {});
  if (!device && device.error().code == Code::Unavailable)
    GTEST_SKIP() << device.error().message;
  ASSERT_TRUE(device) << device.error().message;
  DevicePlan plan = cudaPlan();
  std::string text = kernelsFor("sm_80", false);
  text.replace(text.find("ld.global.u32 %n, [%info];"), 26, "ld.global.u32 %n, [%info+-16777216];");
  for (KernelLaunch &launch : plan.images[0].launches)
    launch.dependent = false;
  plan.images[0].features = {"cuda", "sm_80"};
  plan.images[0].code = std::as_bytes(std::span(text));
  auto executor = (*device)->createExecutor(plan, executorOptions);
  ASSERT_TRUE(executor) << executor.error().message;
  if (std::string(GetParam()) == "cuda")
    return; // what lies there is not known, and the error would stay for other tests
  Tables tables;
  auto logits = run(**executor, tables, {1}, {0}, {0}, {0});
  ASSERT_FALSE(logits);
  EXPECT_NE(logits.error().message.find("the session is lost"), std::string::npos)
      << logits.error().message;
  EXPECT_FALSE(run(**executor, tables, {1}, {0}, {0}, {0}));
}

TEST_P(CudaPtxTest, SaysWhatIsWrongWithPtx) {
  const std::vector<std::string> devices{"cuda"};
  auto device = openDevice(GetParam(), devices, {});
  if (!device && device.error().code == Code::Unavailable)
    GTEST_SKIP() << device.error().message;
  ASSERT_TRUE(device) << device.error().message;
  DevicePlan plan = cudaPlan();
  std::string text = kernelsFor("sm_80", false);
  text.replace(text.find("mad.lo.s32"), 10, "mad.no.s32");
  plan.images[0].features = {"cuda", "sm_80"};
  plan.images[0].code = std::as_bytes(std::span(text));
  auto executor = (*device)->createExecutor(plan, executorOptions);
  ASSERT_FALSE(executor);
  EXPECT_EQ(executor.error().code, Code::InvalidPlan) << executor.error().message;
}

INSTANTIATE_TEST_SUITE_P(Drivers, CudaPtxTest, testing::Values("ptxsim", "cuda"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
