// MoeKernelBench [--workers N] [--rounds N] [--tokens N] [--shape INPUTSxOUTPUTS] [--format NAME]
// [--target NAME] [--attention N] [--tower N]: how near single kernels come to what the machine can
// do.
//
// Decode: a linear of one token reads its weight, which is larger than the caches, at so many GB/s;
// beside it a probe reads the same bytes. Prefill: a linear of many tokens does so many Gop/s;
// beside it a loop of nothing but the best dot products that the processor has, in registers.
// Kernel and probe alternate.
// With --attention, one token instead attends to N positions kept in each storage, in turns; with
// --tower, a layer of a vision tower of Scout's size takes N tiles, in each format of weights.
//
// Time is what the threads got of the processor, and rounds whose two probes differ do not count,
// so that others on the machine disturb little.
#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/layer_norm/LayerNorm.h"
#include "compiler/kernels/linear/Linear.h"
#include "compiler/kernels/projection/Projection.h"
#include "compiler/kernels/tile_attention/TileAttention.h"
#include "compiler/targets/cpu/TestCpuKernel.h"
#include "tools/bench/probe/PeakArithmetic.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FormatVariadic.h"
#include <algorithm>
#include <barrier>
#include <ctime>
#include <map>
#include <thread>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

// Of the command line. Copies, since linking a kernel resets LLVM's options.
int threads = 1, rounds = 9, prefillTokens = 512, attended = 0, towerTiles = 0;
std::string shape = "2048x65536", only, targetName = "native";

double threadSeconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Runs work(worker) on each worker at once; the longest processor time of any.
double timed(llvm::function_ref<void(int)> work) {
  std::vector<double> seconds(threads);
  std::barrier start(threads);
  std::vector<std::thread> others;
  auto one = [&](int worker) {
    start.arrive_and_wait();
    double before = threadSeconds();
    work(worker);
    seconds[worker] = threadSeconds() - before;
  };
  for (int worker = 1; worker < threads; ++worker)
    others.emplace_back(one, worker);
  one(0);
  for (auto &thread : others)
    thread.join();
  return *std::max_element(seconds.begin(), seconds.end());
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

#if defined(__x86_64__)
// Reads bytes in eight vectors at a time.
__attribute__((target("avx2"))) void readBytes(const std::byte *from, const std::byte *to) {
  __m256i sum[8] = {};
  for (; from + 256 <= to; from += 256)
    for (int i = 0; i < 8; ++i)
      sum[i] = _mm256_xor_si256(
          sum[i], _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + i * 32)));
  for (int i = 0; i < 8; ++i)
    asm volatile("" ::"x"(sum[i]));
}
#endif

class Bench : public Kernels {
public:
  void TestBody() override {}

  static moe::cpu::Kernel codeOf(const Compiled &kernel) {
    return reinterpret_cast<moe::cpu::Kernel>(kernel.kernel);
  }

  void measure(const WeightFormat &format, int64_t inputs, int64_t outputs) {
    ActivationRow row{format, inputs};
    int64_t panels = padded(outputs) / kPanel, bytes = panels * panelBytes(format, inputs);
    // Any bytes will do, so long as no scale is huge or no number.
    Bytes weights(bytes + 64, std::byte(0x11));
    auto *w = reinterpret_cast<std::byte *>((uintptr_t(weights.data()) + 63) / 64 * 64);
    Compiled kernel = compile(CpuLinearResidual{inputs, outputs, format});
    Bytes x = activations(random(prefillTokens * inputs), row),
          h(prefillTokens * padded(outputs) * 4 + 64);
    auto *hs = reinterpret_cast<std::byte *>((uintptr_t(h.data()) + 63) / 64 * 64);
    int64_t scratchBytes = kernel.fixed + prefillTokens * kernel.perRow + 4096;
    Bytes scratch(scratchBytes * threads + 64);
    auto scratchOf = [&](int worker) {
      return reinterpret_cast<void *>((uintptr_t(scratch.data()) + worker * scratchBytes + 63) /
                                      64 * 64);
    };
    alignas(64) int32_t counter = 0;
    void *operands[] = {x.data(), w, hs, &counter}; // no counter if the weight is small
    auto run = [&](int tokens, int times) {
      return timed([&](int worker) {
               moe::cpu::StepInfo step{tokens, 0, 0, 0, nullptr};
               for (int i = 0; i < times; ++i)
                 codeOf(kernel)(operands, &step, scratchOf(worker), worker, threads);
             }) /
             times;
    };
#if defined(__x86_64__)
    auto probe = [&] {
      return timed([&](int worker) {
        readBytes(w + bytes * worker / threads, w + bytes * (worker + 1) / threads);
      });
    };
#endif
    const PeakArithmetic *best = peakArithmetic(row.quantized() ? "int8" : "bf16");
    if (!best) // then they are computed in float32
      best = peakArithmetic("fp32");
    auto peak = [&] { return moe::measure(*best, threads); };
    std::vector<double> reads, shares, ops, peakShares;
    for (int tries = 0; int(reads.size()) < rounds && tries < 8 * rounds; ++tries) {
      double before = probe(), decode = run(1, 1), after = probe();
      if (std::max(before, after) > 1.08 * std::min(before, after))
        continue; // others took bandwidth meanwhile
      reads.push_back(bytes / decode * 1e-9);
      shares.push_back((before + after) / 2 / decode);
    }
    for (int i = 0; i < (rounds + 2) / 3; ++i) {
      double before = peak();
      double rate = 2.0 * prefillTokens * inputs * outputs / run(prefillTokens, 1);
      ops.push_back(rate * 1e-9);
      peakShares.push_back(rate / ((before + peak()) / 2));
    }
    if (reads.empty())
      llvm::outs() << "the machine is too busy to measure bandwidth\n";
    else
      llvm::outs() << llvm::formatv("{0,-18} decode {1,6:F1} GB/s, {2:P} of a read; {3} tokens "
                                    "{4,7:F0} Gop/s, {5:P} of {6}\n",
                                    nameOf(format), median(reads), median(shares), prefillTokens,
                                    median(ops), median(peakShares), best->instruction);
    llvm::outs().flush();
  }

  // Scout's heads: one token, or a tile of them, at the end of `positions` positions.
  void measureAttention(int64_t positions) {
    struct Kept {
      CacheSpec cache;
      Compiled kernel;
      Bytes pages, q;
      std::vector<double> decode, reads, prefill;
    };
    const int64_t heads = 40, pageCount = llvm::divideCeil(positions, kPageTokens);
    const int32_t many = 64;
    std::vector<Kept> all;
    for (Storage storage : {Storage::F32, Storage::BF16, Storage::I8}) {
      CacheSpec cache{.heads = 8, .headDim = 128, .storage = storage};
      cache.pageBytes = cache.layerBytes();
      Compiled kernel = compile(CpuAttention{heads, {Storage::BF16}, cache});
      // Any bytes will do, so long as they are small numbers.
      all.push_back({cache,
                     kernel,
                     Bytes(pageCount * cache.pageBytes, std::byte(0x3d)),
                     Bytes(many * heads * cache.queryRow().bytes(), std::byte(0x3d)),
                     {},
                     {},
                     {}});
    }
    Ints blocks(pageCount), last(many), sequences(many);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::iota(last.begin(), last.end(), int32_t(positions - many));
    Bytes out(many * padded(heads * 128) * 4), counters(128);
    for (int round = 0; round < rounds; ++round)
      for (Kept &kept : all) {
        void *decoding[] = {&last[many - 1],   sequences.data(), blocks.data(),  kept.q.data(),
                            kept.pages.data(), out.data(),       counters.data()};
        void *filling[] = {last.data(),       sequences.data(), blocks.data(),  kept.q.data(),
                           kept.pages.data(), out.data(),       counters.data()};
        auto time = [&](void **operands, int32_t tokens) {
          int64_t bytes = kept.kernel.fixed + tokens * kept.kernel.perRow + 4096;
          Bytes scratch(bytes * threads + 64);
          return timed([&](int worker) {
            moe::cpu::StepInfo step{tokens, 0, int32_t(pageCount), 0, nullptr};
            auto at = (uintptr_t(scratch.data()) + worker * bytes + 63) / 64 * 64;
            codeOf(kept.kernel)(operands, &step, reinterpret_cast<void *>(at), worker, threads);
          });
        };
        kept.decode.push_back(time(decoding, 1));
        kept.prefill.push_back(time(filling, many));
#if defined(__x86_64__)
        kept.reads.push_back(timed([&](int worker) {
          int64_t bytes = kept.pages.size();
          readBytes(&kept.pages[bytes * worker / threads],
                    &kept.pages[0] + bytes * (worker + 1) / threads);
        }));
#endif
      }
    for (Kept &kept : all)
      llvm::outs() << llvm::formatv(
          "{0,-5} cache, {1} positions: decode {2,7:F2} ms, {3,5:F1} GB/s, {4:P} of a read; {5} "
          "tokens {6,8:F2} ms\n",
          nameOf(kept.cache.storage), positions, median(kept.decode) * 1e3,
          kept.pages.size() / median(kept.decode) * 1e-9, median(kept.reads) / median(kept.decode),
          many, median(kept.prefill) * 1e3);
  }

  // Its kernels one after the other, each with buffers of its own.
  void measureTower(const WeightFormat &format, int32_t tiles) {
    const int64_t hidden = 1408, width = 5632, grid = 24;
    const TileHeads heads{16, 88, grid * grid + 1, Storage::BF16};
    struct Part {
      const char *name;
      double operations; // of products
      Compiled kernel;
      std::vector<Bytes> buffers;
      std::vector<double> seconds{};
    };
    std::vector<Part> parts;
    const double rows = double(tiles) * double(heads.rows);
    auto add = [&](const char *name, const auto &contract, double operations,
                   const std::map<Operand, int64_t> &bytes) {
      Part part{name, operations, compile(contract), {}};
      const Step step{tiles, 0};
      for (Operand operand : part.kernel.operands) {
        auto given = bytes.find(operand);
        const int64_t size = given != bytes.end() ? given->second : contract.bytes(operand, step);
        // Any bytes will do, so long as they are small numbers.
        part.buffers.emplace_back(size + 128, std::byte(operand == Operand::Counters ? 0 : 0x3d));
      }
      parts.push_back(std::move(part));
    };
    auto rowBytes = [&](int64_t columns) {
      return int64_t(rows) * ActivationRow{format, columns}.bytes();
    };
    auto weightBytes = [&](int64_t outputs, int64_t inputs) {
      return padded(outputs) / kPanel * panelBytes(format, inputs);
    };
    const int64_t stream = int64_t(rows) * padded(hidden) * 4;
    const std::map<Operand, int64_t> norm{
        {Operand::H, stream}, {Operand::Norm, hidden * 4}, {Operand::NormBias, hidden * 4}};
    using To = CpuProjection::To;
    auto project = [&](const char *name, int64_t inputs, int64_t outputs, To to, bool gelu) {
      add(name,
          CpuProjection{heads.rows, inputs, outputs, format, to, true, gelu,
                        to == To::Rows ? format : WeightFormat{}},
          2 * rows * double(inputs) * double(outputs),
          {{Operand::X, rowBytes(inputs)},
           {Operand::Weight, weightBytes(outputs, inputs)},
           {Operand::Bias, outputs * 4},
           {Operand::H, stream}});
    };
    add("norm", CpuLayerNorm{heads.rows, hidden, format, 1e-5f}, 0, norm);
    add("qkv", CpuTowerQkv{hidden, grid, 1e4f, format, heads},
        2 * rows * double(hidden) * 3 * double(hidden),
        {{Operand::X, rowBytes(hidden)},
         {Operand::Weight, weightBytes(3 * hidden, hidden)},
         {Operand::Bias, 3 * hidden * 4}});
    add("attention", CpuTileAttention{heads, format},
        4 * rows * double(heads.rows) * double(hidden),
        {{Operand::Q, tiles * heads.queriesBytes()},
         {Operand::Keys, tiles * heads.keysBytes()},
         {Operand::Values, tiles * heads.valuesBytes()}});
    project("o", hidden, hidden, To::Stream, false);
    add("norm", CpuLayerNorm{heads.rows, hidden, format, 1e-5f}, 0, norm);
    project("fc1", hidden, width, To::Rows, true);
    project("fc2", width, hidden, To::Stream, false);

    auto time = [&](Part &part) {
      std::vector<void *> operands;
      for (Bytes &buffer : part.buffers)
        operands.push_back(reinterpret_cast<void *>((uintptr_t(buffer.data()) + 63) / 64 * 64));
      const int64_t bytes = part.kernel.fixed + tiles * part.kernel.perRow + 4096;
      Bytes scratch(bytes * threads + 64);
      return timed([&](int worker) {
        moe::cpu::StepInfo step{tiles, 0, 0, 0, nullptr};
        auto at = (uintptr_t(scratch.data()) + worker * bytes + 63) / 64 * 64;
        codeOf(part.kernel)(operands.data(), &step, reinterpret_cast<void *>(at), worker, threads);
      });
    };
    const PeakArithmetic *best = peakArithmetic(format.quantized() ? "int8" : "bf16");
    if (!best)
      best = peakArithmetic("fp32");
    std::vector<double> totals, shares;
    double operations = 0;
    for (const Part &part : parts)
      operations += part.operations;
    for (int round = 0; round < rounds; ++round) {
      const double before = moe::measure(*best, threads);
      double total = 0;
      for (Part &part : parts) {
        part.seconds.push_back(time(part));
        total += part.seconds.back();
      }
      totals.push_back(total);
      shares.push_back(operations / total / ((before + moe::measure(*best, threads)) / 2));
    }
    llvm::outs() << llvm::formatv("{0}, {1} tiles: a layer {2:F1} ms, {3:F0} Gop/s, {4:P} of {5}\n",
                                  nameOf(format), tiles, median(totals) * 1e3,
                                  operations / median(totals) * 1e-9, median(shares),
                                  best->instruction);
    for (const Part &part : parts)
      llvm::outs() << llvm::formatv("  {0,-9} {1,8:F2} ms  {2,6:F0} Gop/s\n", part.name,
                                    median(part.seconds) * 1e3,
                                    part.operations / median(part.seconds) * 1e-9);
    llvm::outs().flush();
  }

  void main() {
    std::string missing;
    if (!open(targetName, missing)) {
      llvm::errs() << "--target: " << missing << "\n";
      return;
    }
    if (processor->isEmulated()) {
      llvm::errs() << "--target: this processor cannot run " << target.name
                   << ": measure where it need not be emulated\n";
      return;
    }
    if (attended)
      return measureAttention(attended);
    if (towerTiles) {
      for (WeightFormat format :
           {WeightFormat{Storage::BF16}, WeightFormat{Storage::I8, 128, Storage::F16}})
        if (only.empty() || nameOf(format).find(only) != std::string::npos)
          measureTower(format, towerTiles);
      return;
    }
    int64_t inputs = 0, outputs = 0;
    if (std::sscanf(shape.c_str(), "%ldx%ld", &inputs, &outputs) != 2 || inputs % 128) {
      llvm::errs() << "--shape: expected INPUTSxOUTPUTS, with inputs a multiple of 128\n";
      return;
    }
    for (WeightFormat format :
         {WeightFormat{Storage::BF16}, WeightFormat{Storage::F8E4M3, 128, Storage::F32},
          WeightFormat{Storage::F8E4M3, inputs, Storage::F32},
          WeightFormat{Storage::I8, inputs, Storage::F32},
          WeightFormat{Storage::I8, 128, Storage::F16},
          WeightFormat{Storage::I4, 128, Storage::F16},
          WeightFormat{Storage::I4, 128, Storage::F16, true},
          WeightFormat{Storage::I4, 32, Storage::F16}})
      if (only.empty() || nameOf(format).find(only) != std::string::npos)
        measure(format, inputs, outputs);
  }
};

} // namespace

int main(int argc, char **argv) {
  namespace cl = llvm::cl;
  cl::opt<int> workersOption("workers", cl::init(threads), cl::desc("workers"));
  cl::opt<int> roundsOption("rounds", cl::init(rounds), cl::desc("pairs of kernel and probe"));
  cl::opt<int> tokensOption("tokens", cl::init(prefillTokens), cl::desc("tokens of a prefill"));
  cl::opt<std::string> shapeOption("shape", cl::init(shape),
                                   cl::desc("columns x rows of the weight"));
  cl::opt<std::string> formatOption("format", cl::desc("measure formats with this in their name"));
  cl::opt<std::string> targetOption("target", cl::init(targetName), cl::desc("as of moec compile"));
  cl::opt<int> attentionOption("attention", cl::init(attended),
                               cl::desc("measure attention to so many positions"));
  cl::opt<int> towerOption("tower", cl::init(towerTiles),
                           cl::desc("measure a layer of a vision tower on so many tiles"));
  cl::ParseCommandLineOptions(argc, argv, "Measures single CPU kernels.\n");
  threads = workersOption;
  rounds = roundsOption;
  prefillTokens = tokensOption;
  shape = shapeOption;
  only = formatOption;
  targetName = targetOption;
  attended = attentionOption;
  towerTiles = towerOption;
#if defined(__x86_64__)
  Bench().main();
  return 0;
#else
  llvm::errs() << "MoeKernelBench: only for x86-64\n";
  return 1;
#endif
}
