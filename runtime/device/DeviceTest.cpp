// What every device must do, on a small hand-made plan whose kernels are functions of this program.
#include "runtime/device/Devices.h"
#include "runtime/device/cpu/CpuDevice.h"

#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

using namespace moe;

namespace {

constexpr int64_t kVocab = 8, kPageInts = 64;

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

// Stores each token in the cache. operands: tokens, positions, sequences, table, cache
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

// logits[r] = embedding + v * sum of the sequence's tokens so far.
// operands: positions, sequences, table, cache, arena, rows, logits
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
          static_cast<float *>(operands[4])[i] + float(v * sum);
  }
}

struct Weights {
  alignas(64) float values[16] = {0, 0, 0, 0, 0, 0, 0, 0, .5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f};
};
const Weights weights;

DevicePlan handMadePlan() {
  using K = OperandKind;
  auto in = [](InputName name) { return Operand{K::Input, uint32_t(name)}; };
  DevicePlan plan;
  plan.vocab = kVocab;
  plan.sections = {{}, std::as_bytes(std::span(weights.values))};
  plan.pools = {{"chunked", 128, 64, kPageInts * 4 + 64}, {"global", 0, 64, kPageInts * 4}};
  for (int32_t tokens : {1, 4, 16}) {
    Program program{tokens, std::min(tokens, 4), 4096, 300, {}};
    program.calls = {{0, {in(InputName::Tokens), {K::Weight, 1, 32}, {K::Arena, 0, 128}}},
                     {1,
                      {in(InputName::Tokens),
                       in(InputName::Positions),
                       in(InputName::Sequences),
                       in(InputName::GlobalTable),
                       {K::Cache, 1, 0}}},
                     {2,
                      {in(InputName::Positions),
                       in(InputName::Sequences),
                       in(InputName::GlobalTable),
                       {K::Cache, 1, 0},
                       {K::Arena, 0, 128},
                       in(InputName::Rows),
                       {K::Logits}}}};
    plan.programs.push_back(program);
  }
  return plan;
}

Result<std::unique_ptr<Executor>> open(const DevicePlan &plan, int threads,
                                       ExecutorOptions options = {2, 4, {8, 8}}) {
  cpu::CpuOptions cpu;
  cpu.threads = threads;
  cpu.resolve = [](uint32_t kernel) -> cpu::Kernel {
    const cpu::Kernel kernels[] = {embed, store, head};
    return kernel < 3 ? kernels[kernel] : nullptr;
  };
  auto device = cpu::openCpuDevice(std::move(cpu));
  return (*device)->createExecutor(plan, options);
}

class CpuExecutorTest : public testing::TestWithParam<int> {};

TEST_P(CpuExecutorTest, RunsRaggedSteps) {
  auto executor = open(handMadePlan(), GetParam());
  ASSERT_TRUE(executor) << executor.error().message;
  EXPECT_EQ((*executor)->maxTokens(), 16);
  EXPECT_EQ((*executor)->maxRows(), 4);
  const std::vector<int32_t> chunked(8, -1), global{5, 2, -1, -1, 3, -1, -1, -1};
  auto run = [&](std::vector<int32_t> tokens, std::vector<int32_t> positions,
                 std::vector<int32_t> sequences, std::vector<int32_t> rows) {
    Step step{tokens, positions, sequences, rows, {chunked, global}};
    auto result = (*executor)->run(step);
    EXPECT_TRUE(result) << result.error().message;
    return std::vector<float>(result->logits.begin(), result->logits.end());
  };
  auto expected = [](std::vector<std::pair<float, int>> rows) {
    std::vector<float> logits;
    for (auto [embedding, sum] : rows)
      for (int v = 0; v < kVocab; ++v)
        logits.push_back(embedding + float(v * sum));
    return logits;
  };
  // Two sequences in one step, then one token more each, then no logits at all.
  EXPECT_EQ(run({1, 2, 3, 4, 5}, {0, 1, 2, 0, 1}, {0, 0, 0, 1, 1}, {2, 4}),
            expected({{3.5f, 6}, {5.5f, 9}}));
  EXPECT_EQ(run({6, 1}, {3, 2}, {0, 1}, {1, 0}), expected({{1.5f, 10}, {6.5f, 12}}));
  EXPECT_TRUE(run({2}, {4}, {0}, {}).empty());
  EXPECT_EQ(run({0}, {5}, {0}, {0}), expected({{.5f, 14}}));
}

TEST_P(CpuExecutorTest, RefusesStepsThatContradictThemselves) {
  auto executor = open(handMadePlan(), GetParam());
  ASSERT_TRUE(executor);
  const std::vector<int32_t> table(8, 0), one{0}, two{0, 1}, nine{9}, minus{-1}, none;
  auto refused = [&](Step step) { return !(*executor)->run(step); };
  EXPECT_FALSE(refused({one, one, one, one, {table, table}}));
  EXPECT_TRUE(refused({none, none, none, none, {table, table}}));
  EXPECT_TRUE(refused({one, two, one, one, {table, table}}));
  EXPECT_TRUE(refused({one, one, two, one, {table, table}}));
  EXPECT_TRUE(refused({one, one, nine, one, {table, table}}));
  EXPECT_TRUE(refused({nine, one, one, one, {table, table}}));
  EXPECT_TRUE(refused({one, minus, one, one, {table, table}}));
  EXPECT_TRUE(refused({one, one, one, nine, {table, table}}));
  EXPECT_TRUE(refused({one, one, one, one, {table}}));
  EXPECT_TRUE(refused({one, one, one, one, {one, table}}));
  const std::vector<int32_t> many(17, 0), five(5, 0), far{256};
  EXPECT_TRUE(refused({many, many, many, one, {table, table}}));
  EXPECT_TRUE(refused({five, five, five, five, {table, table}})); // more rows than any program
  EXPECT_TRUE(refused({one, far, one, one, {table, table}}));
  const std::vector<RowOutput> logits(1), more(2), id{{false, true, {}}};
  EXPECT_FALSE(refused({one, one, one, one, {table, table}, logits}));
  EXPECT_TRUE(refused({one, one, one, one, {table, table}, more}));
  EXPECT_TRUE(refused({one, one, one, one, {table, table}, id})); // which it does not choose
}

INSTANTIATE_TEST_SUITE_P(Threads, CpuExecutorTest, testing::Values(1, 2, 5));

TEST(CpuExecutor, RefusesWhatItCannotRun) {
  DevicePlan plan = handMadePlan();
  plan.programs[1].calls[0].kernel = 3;
  auto executor = open(plan, 1);
  ASSERT_FALSE(executor);
  EXPECT_EQ(executor.error().message,
            "cpu:test has no kernel number 3 as a step program calls it; compile the plan again");
  plan = handMadePlan();
  plan.programs.clear();
  EXPECT_FALSE(open(plan, 1));
  EXPECT_FALSE(open(handMadePlan(), 1, {2, 4, {8}}));
  auto huge = open(handMadePlan(), 1, {2, 4, {int64_t(1) << 60, 8}});
  ASSERT_FALSE(huge);
  EXPECT_EQ(huge.error().code, Code::ResourceExhausted);
}

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
  plan.vocab = 4;
  plan.programs = {{1, 1, 0, 0, {{0, {{OperandKind::Logits}}}}}};
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
    const std::vector<int32_t> zero{0};
    auto result = (*executor)->run({zero, zero, zero, zero, {}});
    ASSERT_TRUE(result);
    EXPECT_EQ(result->logits[0], 42);
  }
  image.entries = {Image::absent};
  plan.images = {image};
  auto device = openDevice("cpu", std::vector<std::string>{"cpu"}, {1});
  EXPECT_FALSE((*device)->createExecutor(plan, {1, 1, {}}));
  close(file);
}

TEST(Devices, OpenByName) {
  const std::vector<std::string> cpu{"cpu"}, cuda{"cuda"};
  EXPECT_EQ((*openDevice("auto", cpu, {}))->name(), "cpu");
  EXPECT_EQ((*openDevice("cpu", cpu, {}))->name(), "cpu");
  EXPECT_EQ(openDevice("gpu", cpu, {}).error().message,
            "unknown device 'gpu'; the devices are auto, cuda, cpu, ptxsim");
  for (const char *name : {"cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cpu:0", "cuda1"})
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
}

} // namespace
