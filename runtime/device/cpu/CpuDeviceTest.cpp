// CpuDevice: the tests of all devices with kernels that are functions of this program, and code in
// an image.
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/device/Devices.h"
#include "runtime/device/TestDeviceSuite.h"

#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace moe {
namespace {

using namespace testplan;

void share(int32_t count, int32_t worker, int32_t workers, int32_t &begin, int32_t &end) {
  begin = count * worker / workers;
  end = count * (worker + 1) / workers;
}

// operands: tokens, weights (float [8]), arena (float [T])
void embed(void *const *operands, const cpu::StepInfo *step, void *, int32_t worker,
           int32_t workers) {
  int32_t begin, end;
  share(step->tokens, worker, workers, begin, end);
  for (int32_t i = begin; i < end; ++i)
    static_cast<float *>(operands[2])[i] =
        static_cast<float *>(operands[1])[static_cast<int32_t *>(operands[0])[i]];
}

// operands: tokens, positions, sequences, table, cache
void store(void *const *operands, const cpu::StepInfo *step, void *scratch, int32_t worker,
           int32_t workers) {
  std::memset(scratch, worker, 256);
  int32_t begin, end;
  share(step->tokens, worker, workers, begin, end);
  auto input = [&](int k, int32_t i) { return static_cast<int32_t *>(operands[k])[i]; };
  for (int32_t i = begin; i < end; ++i) {
    int32_t page = input(3, input(2, i) * step->tableStride + input(1, i) / 64);
    static_cast<int32_t *>(operands[4])[page * kPageInts + input(1, i) % 64] = input(0, i);
  }
  for (int k = 0; k < 256; ++k) // the scratch is this worker's alone
    if (static_cast<uint8_t *>(scratch)[k] != uint8_t(worker))
      std::abort();
}

// operands: positions, sequences, table, cache, arena, rows, logits, counters
void head(void *const *operands, const cpu::StepInfo *step, void *, int32_t worker,
          int32_t workers) {
  int32_t begin, end;
  share(step->rows, worker, workers, begin, end);
  auto input = [&](int k, int32_t i) { return static_cast<int32_t *>(operands[k])[i]; };
  for (int32_t r = begin; r < end; ++r) {
    int32_t i = input(5, r), sum = 0;
    for (int32_t p = 0; p <= input(0, i); ++p)
      sum += input(3, input(2, input(1, i) * step->tableStride + p / 64) * kPageInts + p % 64);
    for (int64_t v = 0; v < kVocab; ++v)
      static_cast<float *>(operands[6])[r * kVocab + v] =
          static_cast<float *>(operands[4])[i] + float(v * sum) +
          float(*static_cast<uint32_t *>(operands[7]));
  }
}

// operands: sampling, ids
void choose(void *const *operands, const cpu::StepInfo *step, void *, int32_t worker,
            int32_t workers) {
  int32_t begin, end;
  share(step->rows, worker, workers, begin, end);
  for (int32_t r = begin; r < end; ++r)
    static_cast<int32_t *>(operands[1])[r] = idOf(static_cast<RowSampling *>(operands[0])[r]);
}

SuiteDevice cpuWith(int threads) {
  SuiteDevice suite;
  suite.name = "cpu";
  suite.variant = std::to_string(threads) + (threads == 1 ? "thread" : "threads");
  suite.open = [threads] {
    cpu::CpuOptions options;
    options.threads = threads;
    options.resolve = [](uint32_t kernel) -> cpu::Kernel {
      const cpu::Kernel kernels[] = {embed, nullptr, store, head, choose};
      return kernel < 5 ? kernels[kernel] : nullptr;
    };
    return cpu::openCpuDevice(std::move(options));
  };
  suite.prepare = [](DevicePlan &) {};
  return suite;
}

INSTANTIATE_TEST_SUITE_P(Cpu, DeviceSuite, testing::Values(cpuWith(2)), suiteName);
INSTANTIATE_TEST_SUITE_P(Cpu, KernelSuite, testing::Values(cpuWith(1), cpuWith(2), cpuWith(5)),
                         suiteName);

// Machine code in a section, mapped executable from a file and copied from memory.
TEST(CpuExecutor, RunsCodeOfAnImage) {
#if defined(__x86_64__)
  // *(float *)operands[0] = 42: mov rax,[rdi]; mov dword [rax],0x42280000; ret
  const uint8_t bytes[] = {0x48, 0x8b, 0x07, 0xc7, 0x00, 0x00, 0x00, 0x28, 0x42, 0xc3};
  const char *architecture = "x86_64";
#elif defined(__aarch64__)
  // ldr x8,[x0]; movz w9,#0x4228,lsl #16; str w9,[x8]; ret
  const uint32_t bytes[] = {0xf9400008, 0x52a84509, 0xb9000109, 0xd65f03c0};
  const char *architecture = "aarch64";
#else
  GTEST_SKIP() << "no code for this architecture";
#endif
  alignas(64) std::byte code[4096 + 64] = {};
  std::memcpy(code + 64, bytes, sizeof bytes);
  int file = memfd_create("plan", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(file, 3 * 4096), 0);
  ASSERT_EQ(pwrite(file, code, sizeof code, 4096), ssize_t(sizeof code));
  DevicePlan plan;
  plan.outputs = {{"logits", ElementType::F32, {{Extent::Rows}, {Extent::Constant, 4}}}};
  plan.programs = {{1, 1}};
  plan.programs[0].outputs = {0};
  plan.programs[0].calls = {{0, {{OperandKind::Output, 0}}}};
  Image image;
  image.target = std::string("cpu:") + architecture;
  image.features = {architecture};
  image.code = code;
  image.entries = {64};
  for (int descriptor : {file, -1}) {
    image.file = descriptor;
    image.fileOffset = 4096;
    plan.images = {image};
    auto device = openDevice("cpu", std::vector<std::string>{"cpu"}, {1});
    ASSERT_TRUE(device);
    auto executor = (*device)->createExecutor(plan, {1, 1, {}});
    ASSERT_TRUE(executor) << executor.error().message;
    EXPECT_EQ((*executor)->description(), image.target + ", 1 thread");
    const TensorPart logits{0, 0, 16};
    ASSERT_TRUE((*executor)->run({1, 1, {}, {}, {&logits, 1}}));
    EXPECT_EQ(outputOf<float>(**executor, LogitsOut, 1), Logits{42});
  }
  image.entries = {Image::absent};
  plan.images = {image};
  auto device = openDevice("cpu", std::vector<std::string>{"cpu"}, {1});
  EXPECT_FALSE((*device)->createExecutor(plan, {1, 1, {}}));
  close(file);
}

} // namespace
} // namespace moe
