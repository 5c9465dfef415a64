// CudaDevice on a driver of this test: what steps compute, what they ask of the driver, and that
// whatever fails is said and leaves nothing behind.
#include "runtime/device/cuda/CudaDevice.h"
#include "runtime/device/Devices.h"
#include "runtime/device/cuda/Image.h"
#include "runtime/device/cuda/KernelAbi.h"
#include "runtime/device/cuda/TestDriver.h"
#include "runtime/device/cuda/TestPlan.h"

#include <gtest/gtest.h>

using namespace moe;
using cuda::CUresult;
using cuda::LaunchConfig;
using cuda::TestDriver;
using namespace cuda::testplan;

namespace {

using Parameters = std::span<const uint64_t>;

template <typename T> T *at(Parameters p, size_t i) { return reinterpret_cast<T *>(p[i]); }

// operands: tokens, weights (float [8]), arena (float [T])
void embed(Parameters p, const LaunchConfig &) {
  for (int32_t i = 0; i < at<cuda::StepInfo>(p, 3)->tokens; ++i)
    at<float>(p, 2)[i] = at<float>(p, 1)[at<int32_t>(p, 0)[i]];
}

// operands: tokens, positions, sequences, table, cache
void store(Parameters p, const LaunchConfig &) {
  const auto &step = *at<cuda::StepInfo>(p, 5);
  for (int32_t i = 0; i < step.tokens; ++i) {
    int32_t position = at<int32_t>(p, 1)[i];
    int32_t page = at<int32_t>(p, 3)[at<int32_t>(p, 2)[i] * step.tableStride + position / 64];
    at<int32_t>(p, 4)[page * kPageInts + position % 64] = at<int32_t>(p, 0)[i];
  }
}

// operands: positions, sequences, table, cache, arena, rows, logits, counters
void head(Parameters p, const LaunchConfig &) {
  const auto &step = *at<cuda::StepInfo>(p, 8);
  for (int32_t r = 0; r < step.rows; ++r) {
    int32_t i = at<int32_t>(p, 5)[r], sum = 0;
    for (int32_t q = 0; q <= at<int32_t>(p, 0)[i]; ++q)
      sum += at<int32_t>(
          p, 3)[at<int32_t>(p, 2)[at<int32_t>(p, 1)[i] * step.tableStride + q / 64] * kPageInts +
                q % 64];
    for (int64_t v = 0; v < kVocab; ++v)
      at<float>(p, 6)[r * kVocab + v] =
          at<float>(p, 4)[i] + float(v * sum) + float(*at<uint32_t>(p, 7));
  }
}

// operands: sampling, ids
void choose(Parameters p, const LaunchConfig &) {
  for (int32_t r = 0; r < at<cuda::StepInfo>(p, 2)->rows; ++r)
    at<int32_t>(p, 1)[r] = idOf(at<RowSampling>(p, 0)[r]);
}

const std::string_view cubin("CUBIN");

void addKernels(TestDriver &driver) {
  driver.kernels["embed"] = {embed, 4};
  driver.kernels["store"] = {store, 6};
  driver.kernels["head"] = {head, 9};
  driver.kernels["choose"] = {choose, 3};
}

class CudaDeviceTest : public testing::Test {
protected:
  CudaDeviceTest() { addKernels(driver); }
  ~CudaDeviceTest() override { EXPECT_EQ(driver.live(), 0u); }

  Result<std::unique_ptr<Executor>> open(const DevicePlan &plan,
                                         const ExecutorOptions &options = executorOptions,
                                         cuda::CudaOptions cuda = {}) {
    auto device = cuda::openCudaDevice(driver.api(), std::move(cuda));
    if (!device)
      return device.error();
    return (*device)->createExecutor(plan, options);
  }
  std::string errorOf(const DevicePlan &plan, Code code = Code::Unavailable) {
    auto executor = open(plan);
    EXPECT_FALSE(executor);
    if (executor)
      return {};
    EXPECT_EQ(executor.error().code, code) << executor.error().message;
    EXPECT_EQ(driver.live(), 0u);
    return executor.error().message;
  }
  void expectError(const DevicePlan &plan, const std::string &part, Code code = Code::Unavailable) {
    std::string message = errorOf(plan, code);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }

  TestDriver driver;
};

TEST_F(CudaDeviceTest, RunsRaggedSteps) {
  auto executor = open(cudaPlan());
  ASSERT_TRUE(executor) << executor.error().message;
  EXPECT_EQ((*executor)->description(), "cuda:sm_90a, on cuda:0 (Test GPU)");
  Tables tables;
  runRaggedSteps(**executor, tables);
  // Another page, in the first bucket.
  tables.global[5] = 6;
  auto logits = run(**executor, tables, {1}, {64}, {1}, {});
  ASSERT_TRUE(logits) << logits.error().message;
  EXPECT_TRUE(logits->empty());
  EXPECT_EQ(driver.graphLaunches, 6);
  EXPECT_EQ(driver.launches, 18);
  EXPECT_EQ(driver.configs.size(), 9u); // captured once for each bucket
}

TEST_F(CudaDeviceTest, AsksTheDriverForLittleInAStep) {
  auto executor = open(cudaPlan());
  ASSERT_TRUE(executor);
  Tables tables;
  ASSERT_TRUE(run(**executor, tables, {1}, {0}, {0}, {0})); // brings its table along
  driver.log.clear();
  driver.bytesIn = 0;
  ASSERT_TRUE(run(**executor, tables, {1}, {1}, {0}, {0}));
  EXPECT_EQ(driver.log,
            (std::vector<std::string>{"cuCtxSetCurrent", "cuMemcpyHtoDAsync", "cuGraphLaunch",
                                      "cuMemcpyDtoHAsync", "cuStreamSynchronize"}));
  EXPECT_EQ(driver.bytesIn, 5 * 256u);
  driver.log.clear();
  ASSERT_TRUE(run(**executor, tables, {1}, {64}, {0}, {})); // a new page, no logits
  EXPECT_EQ(driver.log,
            (std::vector<std::string>{"cuCtxSetCurrent", "cuMemcpyHtoDAsync", "cuMemcpyHtoDAsync",
                                      "cuGraphLaunch", "cuStreamSynchronize"}));
}

TEST_F(CudaDeviceTest, CopiesTheOutputsThatAreWanted) {
  DevicePlan plan = choosingPlan();
  addImage(plan);
  auto executor = open(plan);
  ASSERT_TRUE(executor) << executor.error().message;
  const RowSampling logits{RowSampling::writesLogits, 0, 0, 0, 0, 0, 0}, id{},
      drawn{RowSampling::writesLogits | RowSampling::draws, 2.5f, 100, 20, 4000, 3, 0};
  // The bytes that are copied out.
  const auto step = [&](std::vector<RowSampling> sampling, std::vector<TensorPart> wanted) {
    TestStep step({}, {1, 2, 3, 4}, {0, 1, 2, 3}, {0, 0, 0, 0}, {0, 1, 2, 3});
    step.choose(std::move(sampling));
    step.wanted = std::move(wanted);
    driver.bytesOut = 0;
    const Status result = (*executor)->run(step);
    EXPECT_TRUE(result) << result.error().message;
    return driver.bytesOut;
  };
  constexpr size_t idBytes = 4 * sizeof(int32_t), rowBytes = kVocab * sizeof(float);
  using V = std::vector<int32_t>;
  EXPECT_EQ(step({id, drawn, id, drawn}, {{IdsOut, 0, idBytes}}), idBytes); // 4 bytes a row
  EXPECT_EQ(outputOf<int32_t>(**executor, IdsOut, 4), (V{1000, 4125, 1000, 4125}));
  EXPECT_EQ(step({logits, logits, logits, logits}, {{LogitsOut, 0, 4 * rowBytes}}), 4 * rowBytes);
  EXPECT_EQ(step({logits, id, logits, logits}, {{LogitsOut, 0, rowBytes},
                                                {LogitsOut, 2 * rowBytes, 2 * rowBytes},
                                                {IdsOut, 0, idBytes}}),
            idBytes + 3 * rowBytes);
  EXPECT_EQ(outputOf<int32_t>(**executor, IdsOut, 4), (V{1001, 1000, 1001, 1001}));
  const Logits all = expected({{1, 1}, {2, 3}, {3, 6}, {4, 10}}), out = logitsOf(**executor, 4);
  for (size_t r : {0, 2, 3})
    for (size_t v = 0; v < kVocab; ++v)
      EXPECT_EQ(out[r * kVocab + v], all[r * kVocab + v]);
  // Steps with other draws replay what was recorded.
  EXPECT_EQ(driver.configs.size(), 12u);
}

TEST_F(CudaDeviceTest, LaunchesAsThePlanSays) {
  auto executor = open(cudaPlan());
  ASSERT_TRUE(executor);
  ASSERT_EQ(driver.configs.size(), 9u);
  auto shape = [&](size_t i) {
    const LaunchConfig &c = driver.configs[i];
    return std::vector<unsigned>{c.gridDimX,  c.gridDimY,  c.gridDimZ,      c.blockDimX,
                                 c.blockDimY, c.blockDimZ, c.sharedMemBytes};
  };
  using V = std::vector<unsigned>;
  EXPECT_EQ(shape(0), (V{7, 1, 1, 128, 1, 1, 0}));
  EXPECT_EQ(shape(1), (V{12, 1, 1, 256, 1, 1, 100000})); // 3 on each of 4 multiprocessors
  EXPECT_EQ(shape(2), (V{1, 1, 1, 64, 1, 1, 1024}));
  EXPECT_EQ(driver.programmatic,
            (std::vector<bool>{false, true, true, false, true, true, false, true, true}));
  EXPECT_EQ(driver.functionSettings, (std::map<std::string, int>{{"store", 100000}}));
}

TEST_F(CudaDeviceTest, NeverLaunchesMoreBlocksThanAreResident) {
  driver.kernels["store"].occupancy = 2;
  driver.version = 12020; // and this one's graphs would lose programmatic dependencies
  auto executor = open(cudaPlan());
  ASSERT_TRUE(executor);
  EXPECT_EQ(driver.configs[1].gridDimX, 8u);
  EXPECT_EQ(driver.programmatic, std::vector<bool>(9));
}

TEST_F(CudaDeviceTest, TheFirstKernelOfAStepWaits) {
  DevicePlan plan = cudaPlan();
  plan.images[0].launches[0].dependent = true;
  auto executor = open(plan);
  ASSERT_TRUE(executor);
  EXPECT_FALSE(driver.programmatic[0]);
}

TEST_F(CudaDeviceTest, UploadsOnlyWhatProgramsRead) {
  std::vector<std::pair<uint64_t, uint64_t>> told;
  cuda::CudaOptions options;
  options.progress = [&](uint64_t done, uint64_t total) { told.push_back({done, total}); };
  auto executor = open(cudaPlan(), executorOptions, options);
  ASSERT_TRUE(executor);
  EXPECT_EQ(told, (std::vector<std::pair<uint64_t, uint64_t>>{{64, 64}})); // bytes 256 to 320
}

TEST_F(CudaDeviceTest, UploadsLargeWeightsInPieces) {
  driver.memoryTotal = size_t(1) << 30;
  std::vector<float> large(size_t(40) << 20); // 160 MiB
  for (size_t i = 0; i < large.size(); ++i)
    large[i] = float(i % 8191);
  DevicePlan plan = cudaPlan();
  plan.sections[1] = std::as_bytes(std::span(large));
  plan.programs.resize(1);
  plan.programs[0].calls.resize(1);
  plan.programs[0].calls[0].operands[1] = {OperandKind::Weight, 1, 0, large.size() * 4};
  bool compared = false;
  driver.kernels["embed"].run = [&](Parameters p, const LaunchConfig &) {
    compared = !std::memcmp(at<float>(p, 1), large.data(), large.size() * 4);
  };
  std::vector<uint64_t> told;
  cuda::CudaOptions options;
  options.progress = [&](uint64_t done, uint64_t) { told.push_back(done >> 20); };
  auto executor = open(plan, {2, 4, {8, 8}}, options);
  ASSERT_TRUE(executor) << executor.error().message;
  EXPECT_EQ(told, (std::vector<uint64_t>{64, 128, 160}));
  ASSERT_TRUE(run(**executor, {}, {1}, {0}, {0}, {}));
  EXPECT_TRUE(compared);
}

TEST_F(CudaDeviceTest, PrefersACubinThatLoads) {
  DevicePlan plan = cudaPlan();
  plan.images[0].cubin = std::as_bytes(std::span(cubin));
  { // the driver refuses it
    auto executor = open(plan);
    ASSERT_TRUE(executor) << executor.error().message;
    EXPECT_EQ((*executor)->description(), "cuda:sm_90a, on cuda:0 (Test GPU)");
  }
  driver.load = [](const char *image) {
    return image[0] == 'C' ? CUresult::success : CUresult::invalidPtx;
  };
  auto executor = open(plan);
  ASSERT_TRUE(executor) << executor.error().message;
  EXPECT_EQ((*executor)->description(), "cuda:sm_90a, assembled, on cuda:0 (Test GPU)");
}

TEST_F(CudaDeviceTest, ChoosesTheImage) {
  using cuda::targetRunsOn;
  EXPECT_TRUE(targetRunsOn("sm_80", 8, 0, false));
  EXPECT_TRUE(targetRunsOn("sm_80", 12, 0, false));
  EXPECT_FALSE(targetRunsOn("sm_80", 7, 5, false));
  EXPECT_FALSE(targetRunsOn("sm_86", 8, 0, false));
  EXPECT_TRUE(targetRunsOn("sm_80", 8, 6, true));
  EXPECT_FALSE(targetRunsOn("sm_80", 9, 0, true));
  EXPECT_TRUE(targetRunsOn("sm_90a", 9, 0, false));
  EXPECT_FALSE(targetRunsOn("sm_90a", 10, 0, false));
  EXPECT_FALSE(targetRunsOn("sm_90a", 8, 9, false));
  EXPECT_TRUE(targetRunsOn("sm_100a", 10, 0, false));
  EXPECT_FALSE(targetRunsOn("sm_100a", 10, 3, false));
  EXPECT_TRUE(targetRunsOn("sm_100f", 10, 3, false));
  EXPECT_FALSE(targetRunsOn("sm_100f", 12, 0, false));
  for (const char *target : {"", "sm_", "sm_9", "sm_x", "sm_90b", "sm_90aa", "sm_99999", "avx2"})
    EXPECT_FALSE(targetRunsOn(target, 9, 0, false)) << target;

  DevicePlan plan = cudaPlan();
  plan.images.push_back(plan.images[0]);
  plan.images[1].target = "cuda:sm_80";
  plan.images[1].features = {"cuda", "sm_80"};
  driver.major = 12;
  {
    auto executor = open(plan);
    ASSERT_TRUE(executor);
    EXPECT_EQ((*executor)->description(), "cuda:sm_80, on cuda:0 (Test GPU)");
  }
  driver.major = 7;
  driver.minor = 5;
  expectError(plan, "the plan has kernels for sm_90a, sm_80; cuda:0 (Test GPU) is sm_75");
  auto device = cuda::openCudaDevice(driver.api(), {});
  EXPECT_FALSE((*device)->supports(plan));
  EXPECT_EQ((*device)->name(), "cuda");
  EXPECT_EQ((*device)->planDevice(), "cuda");
}

TEST_F(CudaDeviceTest, OpensDevicesByNumber) {
  driver.devices = 2;
  cuda::CudaOptions options;
  options.index = 1;
  auto executor = open(cudaPlan(), executorOptions, options);
  ASSERT_TRUE(executor);
  EXPECT_EQ((*executor)->description(), "cuda:sm_90a, on cuda:1 (Test GPU)");
  options.index = 2;
  EXPECT_EQ(open(cudaPlan(), executorOptions, options).error().message,
            "there is no device cuda:2: the driver finds 2, cuda:0 to cuda:1");
}

TEST_F(CudaDeviceTest, SaysThatThereIsNoDevice) {
  driver.devices = 0;
  expectError(cudaPlan(), "the CUDA driver finds no GPU");
}

TEST_F(CudaDeviceTest, SaysWhyPtxDoesNotLoad) {
  DevicePlan plan = cudaPlan();
  driver.version = 12040;
  driver.load = [](const char *) { return CUresult::unsupportedPtxVersion; };
  expectError(plan, "the plan's PTX is of version 8.7, newer than the driver, which is of CUDA "
                    "12.4: update NVIDIA's driver");
  driver.load = [](const char *) { return CUresult::invalidPtx; };
  driver.jitLog = "ptxas application ptx input, line 7; error: Unknown symbol 'x'\n";
  expectError(plan,
              "CUDA_ERROR_INVALID_PTX (218), said the driver: ptxas application ptx input, "
              "line 7; error: Unknown symbol 'x'; the driver, of CUDA 12.4,",
              Code::InvalidPlan);
  plan.images[0].code = plan.images[0].code.first(20);
  expectError(plan, "PTX without an end", Code::InvalidPlan);
}

TEST_F(CudaDeviceTest, ComparesKernelsWithThePlan) {
  DevicePlan plan = cudaPlan();
  driver.kernels.erase("store");
  expectError(plan, "lack kernel 'store'", Code::InvalidPlan);
  addKernels(driver);
  for (size_t wrong : {8, 10}) {
    driver.kernels["head"].parameters = wrong;
    expectError(plan, "kernel 'head' does not take the 9 addresses", Code::InvalidPlan);
  }
  addKernels(driver);
  plan.programs[1].calls[0].operands.pop_back();
  expectError(plan, "cuda:sm_90a has no kernel number 0 as a step program calls it",
              Code::InvalidPlan);
  plan = cudaPlan();
  plan.programs[0].calls[0].operands[1].offset = 1024;
  expectError(plan, "outside of their section", Code::InvalidPlan);
  plan.programs[0].calls[0].operands[1].offset = 1000;
  expectError(plan, "outside of their section", Code::InvalidPlan);
}

TEST_F(CudaDeviceTest, ComparesLaunchesWithTheDevice) {
  DevicePlan plan = cudaPlan();
  driver.kernels["store"].maxThreads = 192;
  expectError(plan, "kernel 'store' wants 256 threads of 40 registers a block, and cuda:0 (Test "
                    "GPU) has room for 192");
  addKernels(driver);
  driver.maxShared = 101376;
  driver.kernels["store"].staticShared = 2048;
  expectError(plan, "kernel 'store' wants 102048 bytes of shared memory a block, and cuda:0 (Test "
                    "GPU) has 101376");
  addKernels(driver);
  driver.kernels["store"].occupancy = 0;
  expectError(plan, "a multiprocessor with room for 256 threads of 40 registers");
  addKernels(driver);
  plan.images[0].launches[2].threads = 0;
  expectError(plan, "wants 0 threads");
}

TEST_F(CudaDeviceTest, SaysWhatMemoryItLacks) {
  auto executor = open(cudaPlan(), {2, 4, {1 << 20, 8}});
  ASSERT_FALSE(executor);
  EXPECT_EQ(executor.error().code, Code::ResourceExhausted);
  const std::string &message = executor.error().message;
  for (const char *part :
       {"cannot allocate 320.0 MiB for KV pages of the pool \"chunked\" on cuda:0 (Test GPU)",
        "0.0 MiB for weights, 320.0 MiB for the KV cache", "the device has 8.0 MiB", "--context"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_EQ(driver.live(), 0u);
  auto device = cuda::openCudaDevice(driver.api(), {});
  auto memory = (*device)->memory(cudaPlan());
  ASSERT_TRUE(memory && *memory);
  EXPECT_EQ((*memory)->device, "cuda:0 (Test GPU)");
  EXPECT_EQ((*memory)->total, size_t(8) << 20);
  EXPECT_EQ((*memory)->free, (size_t(8) << 20) - (size_t(8) << 14));
  EXPECT_EQ((*memory)->weights, 64u);
  EXPECT_EQ((*memory)->activations, 4096 + 512 + 4 * kVocab * 4u); // with the logits
}

// Whatever call fails, first alone and then with all after it: an error, and nothing is left.
TEST_F(CudaDeviceTest, LeavesNothingWhereverItFails) {
  const DevicePlan plan = cudaPlan();
  int used = 0; // calls before the end of the session
  const auto session = [&]() -> Status {
    auto executor = open(plan);
    if (!executor)
      return executor.error();
    Tables tables;
    auto logits = run(**executor, tables, {1, 2}, {0, 1}, {0, 0}, {1});
    used = driver.calls;
    if (logits)
      return ok();
    auto again = run(**executor, tables, {1}, {0}, {0}, {0});
    EXPECT_FALSE(again);
    EXPECT_EQ(again.error().message, logits.error().message);
    EXPECT_NE(again.error().message.find("the session is lost"), std::string::npos);
    EXPECT_EQ(driver.calls, used); // a lost device is left alone
    return logits.error();
  };
  ASSERT_TRUE(session());
  const int all = driver.calls, beforeEnd = used;
  const std::vector<std::string> log = driver.log;
  for (bool forever : {false, true})
    for (CUresult with : {CUresult::outOfMemory, CUresult::unknown})
      for (int n = 1; n <= all; ++n) {
        driver.calls = 0;
        driver.failAt = n;
        driver.failWith = with;
        driver.failForever = forever;
        Status status = session();
        const std::string &call = log[n - 1];
        EXPECT_EQ(driver.live(), 0u) << n << " " << call;
        // What releases something has no one to fail for.
        const bool release = call.find("Free") != call.npos || call.find("Destroy") != call.npos ||
                             call.find("Unload") != call.npos;
        if (!forever && (release || n > beforeEnd)) {
          EXPECT_TRUE(status) << n << " " << call;
        } else if (n <= beforeEnd) {
          ASSERT_FALSE(status) << n << " " << call;
          EXPECT_NE(status.error().message.find("cuda:0"), std::string::npos)
              << status.error().message;
        }
      }
}

TEST_F(CudaDeviceTest, ALostDeviceStaysLost) {
  auto executor = open(cudaPlan());
  ASSERT_TRUE(executor);
  Tables tables;
  ASSERT_TRUE(run(**executor, tables, {1}, {0}, {0}, {0}));
  driver.breakNextWork = CUresult::illegalAddress;
  auto logits = run(**executor, tables, {1}, {1}, {0}, {0});
  ASSERT_FALSE(logits);
  EXPECT_EQ(logits.error().code, Code::Unavailable);
  EXPECT_EQ(logits.error().message,
            "cannot finish a step on cuda:0 (Test GPU): CUDA_ERROR_ILLEGAL_ADDRESS (700), said the "
            "driver; the session is lost, make a new one");
  EXPECT_EQ(run(**executor, tables, {1}, {1}, {0}, {0}).error().message, logits.error().message);
  executor->reset();
  EXPECT_EQ(driver.live(), 0u);
  driver.sticky = CUresult::success; // the context went with its last user
  EXPECT_TRUE(open(cudaPlan()));
}

TEST(CudaDriver, IsLookedForWithCare) {
  auto none = cuda::loadDriverFrom("libno-such-driver.so.1");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::Unavailable);
  EXPECT_NE(none.error().message.find("there is no CUDA driver (libno-such-driver.so.1"),
            std::string::npos)
      << none.error().message;
  auto other = cuda::loadDriverFrom("libc.so.6");
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("is of an unknown version and lacks cuInit"),
            std::string::npos)
      << other.error().message;
}

} // namespace
