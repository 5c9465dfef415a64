// CpuDevice: the tests of all devices with kernels that are functions of this program, and code in
// an image.
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/device/Devices.h"
#include "runtime/device/TestDeviceSuite.h"
#include "runtime/device/TestSystem.h"
#include "runtime/device/cpu/Processors.h"

#include <cerrno>
#include <climits>
#include <cstring>
#include <mutex>
#include <set>
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

cpu::Kernel kernelOf(uint32_t kernel) {
  const cpu::Kernel kernels[] = {embed, nullptr, store, head, choose};
  return kernel < 5 ? kernels[kernel] : nullptr;
}

// As many nodes as `count`, each beside some of this machine's processors, all on its first node.
std::vector<cpu::Node> madeUpNodes(int count) {
  const std::vector<int> processors = cpu::allowedProcessors();
  std::vector<cpu::Node> nodes;
  for (int i = 0; i < count; ++i)
    nodes.push_back({0, {processors[size_t(i) % processors.size()]}, uint64_t(64) << 30});
  return nodes;
}

SuiteDevice cpuWith(int threads, cpu::Numa numa = cpu::Numa::Auto, int nodes = 1) {
  SuiteDevice suite;
  suite.name = "cpu";
  suite.variant = std::to_string(threads) + (threads == 1 ? "thread" : "threads") +
                  (numa == cpu::Numa::Interleave  ? "Interleaved"
                   : numa == cpu::Numa::Replicate ? "Replicated"
                                                  : "") +
                  (nodes == 1 ? "" : std::to_string(nodes) + "nodes");
  suite.open = [=] {
    cpu::CpuOptions options;
    options.threads = threads;
    options.numa = numa;
    options.resolve = kernelOf;
    options.nodes = madeUpNodes(nodes);
    return cpu::openCpuDevice(std::move(options));
  };
  suite.prepare = [](DevicePlan &) {};
  return suite;
}

INSTANTIATE_TEST_SUITE_P(Cpu, DeviceSuite, testing::Values(cpuWith(2)), suiteName);
INSTANTIATE_TEST_SUITE_P(
    Cpu, KernelSuite,
    testing::Values(cpuWith(1), cpuWith(2), cpuWith(5), cpuWith(2, cpu::Numa::Auto, 2),
                    cpuWith(1, cpu::Numa::Interleave), cpuWith(4, cpu::Numa::Interleave, 3),
                    cpuWith(2, cpu::Numa::Replicate), cpuWith(5, cpu::Numa::Replicate, 2)),
    suiteName);

// Where the first operand of the kernel below, a weight, was for each worker.
std::mutex placesMutex;
std::set<const void *> places;

void notePlace(void *const *operands, const cpu::StepInfo *, void *, int32_t, int32_t) {
  const std::lock_guard lock(placesMutex);
  places.insert(operands[0]);
}

Result<std::unique_ptr<Executor>> executorOf(const cpu::CpuOptions &options,
                                             const DevicePlan &plan) {
  MOE_ASSIGN(device, cpu::openCpuDevice(options));
  return device->createExecutor(plan, {1, 1, {}});
}

DevicePlan placePlan() {
  DevicePlan plan;
  plan.sections = {std::as_bytes(std::span(bytes.weights))};
  plan.programs = {{1, 1}};
  plan.programs[0].calls = {{0, {{OperandKind::Weight, 0, 256}}}};
  return plan;
}

TEST(CpuExecutor, ReadsEachNodesOwnWeights) {
  if (cpu::allowedProcessors().size() < 2)
    GTEST_SKIP() << "needs two processors";
  cpu::CpuOptions options;
  options.threads = 8; // some on each node, also where fewer run than were asked for
  options.resolve = [](uint32_t) { return notePlace; };
  options.nodes = madeUpNodes(2);
  for (auto [numa, description, count] :
       {std::tuple(cpu::Numa::Off, "cpu:test, 8 threads", 1),
        std::tuple(cpu::Numa::Interleave, "cpu:test, 8 threads, weights interleaved over 2 nodes",
                   1),
        std::tuple(cpu::Numa::Replicate, "cpu:test, 8 threads, weights replicated on 2 nodes", 2),
        std::tuple(cpu::Numa::Auto, "cpu:test, 8 threads, weights replicated on 2 nodes", 2)}) {
    options.numa = numa;
    auto executor = executorOf(options, placePlan());
    ASSERT_TRUE(executor) << executor.error().message;
    if ((*executor)->description().find("mbind") != std::string::npos)
      GTEST_SKIP() << (*executor)->description();
    EXPECT_EQ((*executor)->description(), description);
    places.clear();
    ASSERT_TRUE((*executor)->run({1, 1, {}, {}, {}}));
    EXPECT_EQ(places.size(), size_t(count));
    const bool inPlace = places.contains(reinterpret_cast<const std::byte *>(bytes.weights) + 256);
    EXPECT_EQ(inPlace, numa == cpu::Numa::Off);
    for (const void *place : places)
      EXPECT_EQ(std::memcmp(place, reinterpret_cast<const std::byte *>(bytes.weights) + 256, 256),
                0);
  }
}

TEST(CpuExecutor, SaysThatCopiesDoNotFit) {
  cpu::CpuOptions options;
  options.resolve = [](uint32_t) { return notePlace; };
  options.nodes = madeUpNodes(2);
  for (cpu::Node &node : *options.nodes)
    node.available = 500;
  options.numa = cpu::Numa::Replicate;
  auto executor = executorOf(options, placePlan());
  ASSERT_FALSE(executor);
  EXPECT_EQ(executor.error().code, Code::ResourceExhausted);
  EXPECT_NE(executor.error().message.find("--numa replicate copies 0.0 MiB of weights to each of 2 "
                                          "nodes, and node 0 has 0.0 MiB available"),
            std::string::npos)
      << executor.error().message;
  options.numa = cpu::Numa::Auto; // takes less, and says so
  executor = executorOf(options, placePlan());
  ASSERT_TRUE(executor) << executor.error().message;
  EXPECT_NE((*executor)->description().find(", weights interleaved over 2 nodes"),
            std::string::npos);
}

TEST(CpuExecutor, RefusesNumbersOfThreads) {
  cpu::CpuOptions options;
  options.resolve = [](uint32_t) { return notePlace; };
  for (int threads : {-1, cpu::kMostThreads + 1, INT_MAX}) {
    options.threads = threads;
    auto executor = executorOf(options, placePlan());
    ASSERT_FALSE(executor);
    EXPECT_EQ(executor.error().code, Code::InvalidArgument);
    EXPECT_EQ(executor.error().message,
              std::to_string(threads) +
                  " threads were asked for; give 1 to 4096, or 0 for one for each core");
  }
}

// A step of a made-up plan gives what it should.
bool runsASuiteStep(int threads) {
  auto device = cpuWith(threads).open();
  if (!device)
    return false;
  auto executor = (*device)->createExecutor(handMadePlan(), executorOptions);
  const Tables tables;
  const auto logits = executor ? testplan::run(**executor, tables, {3}, {0}, {0}, {0})
                               : Result<Logits>(executor.error());
  return logits && *logits == expected({{3, 3}});
}

TEST(CpuExecutor, RunsOnPoorSystems) {
  const auto runs = [] { return runsASuiteStep(0); };
  withoutCall(SYS_sched_getaffinity, EPERM, runs); // says nothing about processors
  withoutCall(SYS_sched_setaffinity, EPERM, runs);
  withoutCall(SYS_madvise, EINVAL, runs); // has no huge pages
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
