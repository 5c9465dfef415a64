// The driver table, as the runtime uses it.
#include "runtime/device/ptxsim/Driver.h"

#include <cstring>
#include <gtest/gtest.h>
#include <vector>

namespace moe::ptxsim {
namespace {

using namespace cuda;

const char kPtx[] = R"(
.version 8.4
.target sm_90a
.address_size 64
.visible .entry scale(.param .u64 to, .param .u64 from, .param .u32 by)
.maxntid 64, 1, 1
{
  .reg .b32 %r<9>; .reg .b64 %rd<9>;
  ld.param.u64 %rd1, [to]; ld.param.u64 %rd2, [from]; ld.param.u32 %r1, [by];
  mov.u32 %r2, %tid.x; mad.wide.u32 %rd3, %r2, 4, %rd2; mad.wide.u32 %rd4, %r2, 4, %rd1;
  WAIT
  ld.global.u32 %r3, [%rd3]; mul.lo.u32 %r3, %r3, %r1; st.global.u32 [%rd4], %r3;
  ret;
}
.extern .shared .align 16 .b8 dynamic[];
.visible .entry big() { .shared .b32 x[256]; .reg .b32 %r<2>; mov.u32 %r1, dynamic;
  st.shared.b32 [x], %r1; ret; }
)";

std::string ptxWith(const std::string &wait) {
  std::string text = kPtx;
  return text.replace(text.find("WAIT"), 4, wait);
}

struct DriverTest : testing::Test {
  const DriverApi &cu = simulatedDriver();
  CUcontext context = nullptr;
  CUstream stream = nullptr;
  CUmodule module = nullptr;
  DriverOptions options;

  void open() {
    configureDriver(options);
    ASSERT_EQ(cu.cuInit(0), CUresult::success);
    ASSERT_EQ(cu.cuDevicePrimaryCtxRetain(&context, 0), CUresult::success);
    ASSERT_EQ(cu.cuCtxSetCurrent(context), CUresult::success);
    ASSERT_EQ(cu.cuStreamCreate(&stream, kStreamNonBlocking), CUresult::success);
  }
  void TearDown() override {
    if (context) {
      EXPECT_EQ(cu.cuCtxSetCurrent(nullptr), CUresult::success);
      EXPECT_EQ(cu.cuDevicePrimaryCtxRelease(0), CUresult::success);
    }
  }
  CUfunction load(const std::string &ptx, const char *name) {
    CUfunction function = nullptr;
    EXPECT_EQ(cu.cuModuleLoadDataEx(&module, ptx.c_str(), 0, nullptr, nullptr), CUresult::success)
        << text(CUresult::invalidPtx);
    EXPECT_EQ(cu.cuModuleGetFunction(&function, module, name), CUresult::success);
    return function;
  }
  CUdeviceptr room(size_t bytes) {
    CUdeviceptr memory = 0;
    EXPECT_EQ(cu.cuMemAlloc(&memory, bytes), CUresult::success);
    return memory;
  }
  CUresult scale(CUfunction function, CUdeviceptr to, CUdeviceptr from, uint32_t by,
                 bool programmatic = false) {
    LaunchAttribute attribute{};
    attribute.id = LaunchAttributeId::programmaticStreamSerialization;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    LaunchConfig config{1, 1, 1, 64, 1, 1, 0, stream, &attribute, programmatic};
    void *parameters[] = {&to, &from, &by};
    return cu.cuLaunchKernelEx(&config, function, parameters, nullptr);
  }
  std::string text(CUresult code) {
    const char *found = nullptr;
    cu.cuGetErrorString(code, &found);
    return found ? found : "";
  }
  std::vector<uint32_t> get(CUdeviceptr from) {
    std::vector<uint32_t> values(64);
    EXPECT_EQ(cu.cuMemcpyDtoHAsync(values.data(), from, 256, stream), CUresult::success);
    return values;
  }
};

TEST_F(DriverTest, HasEveryFunction) {
#define MOE_HAS(name, symbol, parameters) EXPECT_NE(cu.name, nullptr);
  MOE_CUDA_FUNCTIONS(MOE_HAS, MOE_HAS)
#undef MOE_HAS
}

TEST_F(DriverTest, CopiesAndLaunches) {
  open();
  CUfunction function = load(ptxWith(""), "scale");
  std::vector<uint32_t> input(64);
  for (uint32_t i = 0; i < 64; ++i)
    input[i] = i;
  CUdeviceptr from = room(256), to = room(256);
  EXPECT_EQ(cu.cuMemcpyHtoDAsync(from, input.data(), 256, stream), CUresult::success);
  input.assign(64, 99); // pageable memory may change at once
  EXPECT_EQ(scale(function, to, from, 3), CUresult::success);
  auto values = get(to);
  for (uint32_t i = 0; i < 64; ++i)
    EXPECT_EQ(values[i], 3 * i);
  EXPECT_NE(driverStats().find("scale"), std::string::npos);
  int threads = 0;
  cu.cuFuncGetAttribute(&threads, FunctionAttribute::maxThreadsPerBlock, function);
  EXPECT_EQ(threads, 64);
  EXPECT_EQ(cu.cuMemcpyHtoDAsync(from + 4, input.data(), 256, stream), CUresult::invalidValue);
  EXPECT_NE(text(CUresult::invalidValue).find("byte 4 of the 256 bytes"), std::string::npos);
  EXPECT_EQ(cu.cuMemFree(from + 4), CUresult::invalidValue);
  EXPECT_EQ(cu.cuMemFree(from), CUresult::success);
}

TEST_F(DriverTest, PinnedMemoryIsReadLate) {
  open();
  void *pinned = nullptr;
  ASSERT_EQ(cu.cuMemHostAlloc(&pinned, 256, 0), CUresult::success);
  auto *words = static_cast<uint32_t *>(pinned);
  CUdeviceptr memory = room(256);
  words[0] = 1;
  EXPECT_EQ(cu.cuMemcpyHtoDAsync(memory, pinned, 256, stream), CUresult::success);
  words[0] = 2;
  EXPECT_EQ(cu.cuStreamSynchronize(stream), CUresult::success);
  EXPECT_EQ(get(memory)[0], 2u);
  EXPECT_EQ(cu.cuMemFreeHost(pinned), CUresult::success);
}

TEST_F(DriverTest, GraphsReplayWhatWasRecorded) {
  open();
  CUfunction function = load(ptxWith("griddepcontrol.wait;"), "scale");
  CUdeviceptr a = room(256), b = room(256), more = 0;
  void *pinned = nullptr;
  ASSERT_EQ(cu.cuMemHostAlloc(&pinned, 256, 0), CUresult::success);
  auto *words = static_cast<uint32_t *>(pinned);
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  ASSERT_EQ(cu.cuStreamBeginCapture(stream, StreamCaptureMode::threadLocal), CUresult::success);
  EXPECT_EQ(cu.cuMemcpyHtoDAsync(a, pinned, 256, stream), CUresult::success);
  EXPECT_EQ(scale(function, b, a, 2), CUresult::success);
  EXPECT_EQ(scale(function, a, b, 5, true), CUresult::success);
  ASSERT_EQ(cu.cuStreamEndCapture(stream, &graph), CUresult::success);
  ASSERT_EQ(cu.cuGraphInstantiateWithFlags(&exec, graph, 0), CUresult::success);
  EXPECT_EQ(cu.cuGraphDestroy(graph), CUresult::success);
  for (uint32_t round = 1; round < 4; ++round) {
    for (uint32_t i = 0; i < 64; ++i)
      words[i] = i * round;
    ASSERT_EQ(cu.cuGraphLaunch(exec, stream), CUresult::success);
    EXPECT_EQ(get(a)[7], 70 * round);
  }
  ASSERT_EQ(cu.cuStreamBeginCapture(stream, StreamCaptureMode::global), CUresult::success);
  EXPECT_EQ(cu.cuMemAlloc(&more, 16), CUresult::streamCaptureUnsupported);
  EXPECT_EQ(cu.cuStreamEndCapture(stream, &graph), CUresult::streamCaptureInvalidated);
}

TEST_F(DriverTest, FindingsStick) {
  open();
  CUfunction function = load(ptxWith(""), "scale");
  CUdeviceptr from = room(128), to = room(256), more = 0;
  EXPECT_EQ(cu.cuMemsetD8Async(from, 1, 128, stream), CUresult::success);
  EXPECT_EQ(scale(function, to, from, 3), CUresult::success);
  EXPECT_EQ(cu.cuStreamSynchronize(stream), CUresult::launchFailed);
  EXPECT_EQ(cu.cuMemAlloc(&more, 16), CUresult::launchFailed);
  std::string found = text(CUresult::launchFailed);
  EXPECT_NE(found.find("kernel 'scale', line 12 (ld), block (0, 0, 0), thread (32, 0, 0): reads 4 "
                       "bytes at global"),
            std::string::npos)
      << found;
  const char *name = nullptr;
  cu.cuGetErrorName(CUresult::launchFailed, &name);
  EXPECT_STREQ(name, "CUDA_ERROR_LAUNCH_FAILED");
  TearDown();
  open();
  EXPECT_EQ(text(CUresult::launchFailed), "unspecified launch failure");
  room(16);
}

TEST_F(DriverTest, DependentLaunchesMustWait) {
  for (const char *wait : {"", "griddepcontrol.wait;"}) {
    open();
    CUfunction function = load(ptxWith(wait), "scale");
    CUdeviceptr a = room(256), b = room(256), c = room(256);
    cu.cuMemsetD8Async(a, 1, 256, stream);
    EXPECT_EQ(scale(function, b, a, 2, true), CUresult::success); // follows a copy
    EXPECT_EQ(scale(function, c, a, 2, true), CUresult::success); // of other memory
    EXPECT_EQ(scale(function, a, b, 2, true),
              CUresult::success); // what the kernel before last wrote
    CUresult result = cu.cuStreamSynchronize(stream);
    EXPECT_EQ(result, *wait ? CUresult::success : CUresult::launchFailed);
    if (!*wait) {
      EXPECT_NE(text(result).find("griddepcontrol.wait"), std::string::npos) << text(result);
    }
    TearDown();
    context = nullptr;
  }
}

TEST_F(DriverTest, RefusesWhatADeviceWould) {
  open();
  const char cubin[] = "\x7f"
                       "ELF and more";
  EXPECT_EQ(cu.cuModuleLoadDataEx(&module, cubin, 0, nullptr, nullptr), CUresult::noBinaryForGpu);
  char log[200] = "";
  JitOption keys[] = {JitOption::errorLogBuffer, JitOption::errorLogBufferSizeBytes};
  void *values[] = {log, reinterpret_cast<void *>(sizeof log)};
  EXPECT_EQ(cu.cuModuleLoadDataEx(&module, ptxWith("nonsense;").c_str(), 2, keys, values),
            CUresult::invalidPtx);
  EXPECT_NE(std::string(log).find("line 11: unknown instruction"), std::string::npos) << log;
  std::string other = ptxWith("");
  other.replace(other.find("sm_90a"), 6, "sm_100");
  EXPECT_EQ(cu.cuModuleLoadDataEx(&module, other.c_str(), 0, nullptr, nullptr),
            CUresult::invalidPtx);

  CUfunction big = load(ptxWith(""), "big");
  int value = 0;
  cu.cuFuncGetAttribute(&value, FunctionAttribute::sharedSizeBytes, big);
  EXPECT_EQ(value, 1024);
  LaunchConfig config{1, 1, 1, 32, 1, 1, 100 * 1024, stream, nullptr, 0};
  EXPECT_EQ(cu.cuLaunchKernelEx(&config, big, nullptr, nullptr), CUresult::invalidValue);
  EXPECT_EQ(cu.cuFuncSetAttribute(big, FunctionAttribute::maxDynamicSharedSizeBytes, 227 * 1024),
            CUresult::invalidValue);
  EXPECT_EQ(cu.cuFuncSetAttribute(big, FunctionAttribute::maxDynamicSharedSizeBytes, 100 * 1024),
            CUresult::success);
  EXPECT_EQ(cu.cuLaunchKernelEx(&config, big, nullptr, nullptr), CUresult::success);
  EXPECT_EQ(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(&value, big, 32, 100 * 1024),
            CUresult::success);
  EXPECT_EQ(value, 2);
  config.blockDimX = 2048;
  EXPECT_EQ(cu.cuLaunchKernelEx(&config, big, nullptr, nullptr), CUresult::invalidValue);
}

} // namespace
} // namespace moe::ptxsim
