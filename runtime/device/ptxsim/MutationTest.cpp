// Does the simulator notice? Correct kernels are damaged by rules, one barrier, wait, fence, count
// or bound at a time, and run with several seeds: a report or another result catches the mutant.
#include "runtime/device/ptxsim/Machine.h"
#include "runtime/device/ptxsim/Parser.h"
#include "runtime/device/ptxsim/TensorBox.h"

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <random>
#include <regex>
#include <sstream>

namespace moe::ptxsim {
namespace {

constexpr uint64_t kSeeds = 4;

uint16_t brain(float value) { return uint16_t(std::bit_cast<uint32_t>(value) >> 16); }

// Small whole numbers, so that sums are exact in any order.
std::vector<float> numbers(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> result(count);
  for (float &value : result)
    value = float(int(random() % 9) - 4);
  return result;
}
std::vector<uint16_t> brains(const std::vector<float> &values) {
  std::vector<uint16_t> result;
  for (float value : values)
    result.push_back(brain(value));
  return result;
}

struct Device {
  Memory memory;
  uint64_t seed;
  explicit Device(uint64_t seed) : seed(seed) {}

  template <class T> uint64_t put(const std::vector<T> &values) {
    uint64_t address = *memory.allocate(values.size() * sizeof(T));
    EXPECT_TRUE(memory.copyIn(address, std::as_bytes(std::span(values))));
    return address;
  }
  uint64_t room(size_t bytes) { return *memory.allocate(bytes); }
  Status launch(const Module &module, const char *entry, Launch how,
                const std::vector<uint64_t> &pointers, const std::vector<uint32_t> &counts,
                uint32_t chain = 0, const std::vector<TensorMap> &maps = {}) {
    std::vector<std::byte> params;
    auto append = [&](const auto &values) {
      auto bytes = std::as_bytes(std::span(values));
      params.insert(params.end(), bytes.begin(), bytes.end());
    };
    for (const TensorMap &map : maps)
      append(map.encode());
    append(pointers);
    append(counts);
    how.params = params;
    how.chain = chain;
    Options options;
    options.seed = seed;
    options.counters = false;
    options.spinLimit = 100'000;
    MOE_TRY(run(module, entry, how, memory, options));
    return ok();
  }
  Result<std::vector<float>> get(uint64_t address, size_t count) {
    std::vector<float> values(count);
    MOE_TRY(memory.copyOut(std::as_writable_bytes(std::span(values)), address, true));
    return values;
  }
};

using Values = std::vector<float>;

Result<Values> runRingGemv(const Module &module, uint64_t seed) {
  constexpr uint32_t tiles = 16, strips = 4, k = tiles * 32, rows = strips * 16;
  Values x = numbers(8 * k, 1), w = numbers(rows * k, 2);
  std::vector<uint16_t> fragments(rows * k);
  for (uint32_t tile = 0; tile < rows * k / 256; ++tile)
    for (uint32_t lane = 0; lane < 32; ++lane)
      for (uint32_t e = 0; e < 8; ++e) {
        uint32_t row = tile / (k / 16) * 16 + lane / 4 + 8 * (e / 2 % 2);
        uint32_t column = tile % (k / 16) * 16 + 2 * (lane % 4) + 8 * (e / 4) + e % 2;
        fragments[tile * 256 + lane * 8 + e] = brain(w[row * k + column]);
      }
  Device device(seed);
  uint64_t from = device.put(brains(x)), px = device.room(8 * k * 2);
  uint64_t weight = device.put(fragments), out = device.room(rows * 32);
  uint64_t partials = device.room(strips * 1024);
  uint64_t counters = device.put(std::vector<uint32_t>(strips, 0));
  uint32_t chain = device.memory.nextSegment;
  MOE_TRY(device.launch(module, "prepare_x", {{8 * k / 256, 1, 1}, {128, 1, 1}, 0, {}, {}, 0},
                        {from, px}, {}));
  uint32_t shared = 10304 + 8 * (64 * tiles + 16);
  MOE_TRY(device.launch(module, "ring_gemv", {{3, 1, 1}, {160, 1, 1}, shared, {}, {}, 0},
                        {px, weight, out, partials, counters}, {tiles, strips}, chain));
  MOE_ASSIGN(result, device.get(out, rows * 8));
  MOE_ASSIGN(zeros, device.get(counters, strips));
  for (uint32_t row = 0; row < rows; ++row)
    for (uint32_t t = 0; t < 8; ++t) {
      float sum = 0;
      for (uint32_t i = 0; i < k; ++i)
        sum += w[row * k + i] * 2 * x[t * k + i];
      result.push_back(sum - result[row * 8 + t]); // the error
    }
  result.insert(result.end(), zeros.begin(), zeros.end());
  return result;
}

Result<Values> runAsyncGemm(const Module &module, uint64_t seed) {
  constexpr uint32_t n = 64, k = 160;
  Values all, errors;
  for (uint32_t m : {75u, 98u}) { // the last rows of each half of a tile
    Values a = numbers(m * k, 3), b = numbers(n * k, 4);
    Device device(seed);
    uint64_t out = device.room(m * n * 4);
    MOE_TRY(device.launch(module, "async_gemm", {{n / 32, 2, 1}, {128, 1, 1}, 23040, {}, {}, 0},
                          {device.put(brains(a)), device.put(brains(b)), out}, {m, n, k}));
    MOE_ASSIGN(result, device.get(out, m * n));
    all.insert(all.end(), result.begin(), result.end());
    for (uint32_t i = 0; i < m * n; ++i) {
      float sum = 0;
      for (uint32_t j = 0; j < k; ++j)
        sum += a[i / n * k + j] * b[i % n * k + j];
      errors.push_back(sum - result[i]);
    }
  }
  all.insert(all.end(), errors.begin(), errors.end());
  return all;
}

Result<Values> runSplitSoftmax(const Module &module, uint64_t seed) {
  constexpr uint32_t positions = 37, splits = 5;
  Values q = numbers(64, 5), keys = numbers(positions * 64, 6), values = numbers(positions * 64, 7);
  for (float &each : q)
    each /= 16;
  Device device(seed);
  uint64_t out = device.room(256), counter = device.put(std::vector<uint32_t>{0});
  MOE_TRY(device.launch(module, "split_softmax", {{splits, 1, 1}, {128, 1, 1}, 0, {}, {}, 0},
                        {device.put(q), device.put(keys), device.put(values), out,
                         device.room(splits * 272), counter},
                        {positions}));
  MOE_ASSIGN(result, device.get(out, 64));
  MOE_ASSIGN(zero, device.get(counter, 1));
  std::vector<double> weights;
  double sum = 0;
  for (uint32_t p = 0; p < positions; ++p) {
    double score = 0;
    for (uint32_t c = 0; c < 64; ++c)
      score += q[c] * keys[p * 64 + c];
    weights.push_back(std::exp2(score));
    sum += weights.back();
  }
  for (uint32_t c = 0; c < 64; ++c) {
    double value = 0;
    for (uint32_t p = 0; p < positions; ++p)
      value += weights[p] / sum * values[p * 64 + c];
    result.push_back(std::fabs(value - result[c]) < 1e-5 ? 0.0f : 1.0f);
  }
  result.push_back(zero[0]);
  return result;
}

Result<Values> runWgmmaTile(const Module &module, uint64_t seed) {
  constexpr uint32_t tiles = 5, k = tiles * 64;
  Values a = numbers(64 * k, 8), b = numbers(32 * k, 9);
  // Tiles of 64 columns, whose 16 byte chunks are permuted by the row.
  auto swizzled = [&](const Values &values, uint32_t rows) {
    std::vector<uint16_t> packed(values.size());
    for (uint32_t row = 0; row < rows; ++row)
      for (uint32_t i = 0; i < k; ++i)
        packed[i / 64 * rows * 64 + row * 64 + ((i % 64 / 8) ^ (row % 8)) * 8 + i % 8] =
            brain(values[row * k + i]);
    return packed;
  };
  Device device(seed);
  uint64_t out = device.room(8192);
  MOE_TRY(device.launch(module, "wgmma_tile", {{1, 1, 1}, {160, 1, 1}, 32800, {}, {}, 0},
                        {device.put(swizzled(a, 64)), device.put(swizzled(b, 32)), out}, {tiles}));
  MOE_ASSIGN(result, device.get(out, 2048));
  for (uint32_t i = 0; i < 2048; ++i) {
    float sum = 0;
    for (uint32_t j = 0; j < k; ++j)
      sum += a[i / 32 * k + j] * b[i % 32 * k + j];
    result.push_back(sum - result[i]);
  }
  return result;
}

// A matrix of ROWS by COLUMNS, and boxes of it.
TensorMap mapOf(uint64_t address, uint32_t rows, uint32_t columns, uint32_t elementBytes,
                uint32_t boxRows, uint32_t boxColumns, unsigned swizzle) {
  TensorMap map;
  map.rank = 2;
  map.elementBytes = elementBytes;
  map.swizzle = swizzle;
  map.address = address;
  map.size = {columns, rows};
  map.stride = {elementBytes, uint64_t(columns) * elementBytes};
  map.box = {boxColumns, boxRows};
  map.traversal = {1, 1};
  EXPECT_TRUE(map.check());
  return map;
}

Result<Values> runClusterGemm(const Module &module, uint64_t seed) {
  constexpr uint32_t m = 100, n = 32, k = 296, tiles = 5; // the last rows and columns are outside
  Values a = numbers(m * k, 10), b = numbers(n * k, 11);
  Device device(seed);
  uint64_t out = device.room(m * n * 4);
  MOE_TRY(device.launch(
      module, "cluster_gemm", {{2, 1, 1}, {160, 1, 1}, 32800, {}, {}, 0}, {}, {tiles}, 0,
      {mapOf(device.put(brains(a)), m, k, 2, 64, 64, 128),
       mapOf(device.put(brains(b)), n, k, 2, 16, 64, 128), mapOf(out, m, n, 4, 64, 32, 0)}));
  MOE_ASSIGN(result, device.get(out, m * n));
  for (uint32_t i = 0; i < m * n; ++i) {
    float sum = 0;
    for (uint32_t j = 0; j < k; ++j)
      sum += a[i / n * k + j] * b[i % n * k + j];
    result.push_back(sum - result[i]);
  }
  return result;
}

struct Kernel {
  const char *file;
  Result<Values> (*run)(const Module &, uint64_t seed);
  size_t outputs; // then come as many errors
};
const Kernel kKernels[] = {{"ring-gemv.ptx", runRingGemv, 512},
                           {"async-gemm.ptx", runAsyncGemm, (75 + 98) * 64},
                           {"split-softmax.ptx", runSplitSoftmax, 64},
                           {"wgmma-tile.ptx", runWgmmaTile, 2048},
                           {"cluster-gemm.ptx", runClusterGemm, 3200}};

std::string textOf(const Kernel &kernel) {
  std::stringstream text;
  text << std::ifstream(std::string(MOE_SOURCE_DIR "/runtime/device/ptxsim/kernels/") + kernel.file)
              .rdbuf();
  return text.str();
}

TEST(Mutation, OriginalsAreRightWithEverySeed) {
  for (const Kernel &kernel : kKernels) {
    auto module = parse(textOf(kernel));
    ASSERT_TRUE(module) << kernel.file << ": " << module.error().message;
    Values first;
    for (uint64_t seed = 0; seed < 25; ++seed) {
      auto values = kernel.run(*module, seed);
      ASSERT_TRUE(values) << kernel.file << ": " << values.error().message;
      for (size_t i = kernel.outputs; i < values->size(); ++i)
        ASSERT_EQ((*values)[i], 0) << kernel.file << " " << i;
      if (seed) {
        ASSERT_EQ(*values, first) << kernel.file;
      }
      first = *values;
    }
  }
}

// What replaces the part of a line that matches.
struct Rule {
  const char *name, *pattern;
  std::function<std::string(const std::smatch &)> replace;
};

std::string scaled(const std::smatch &match, double factor, int plus) {
  return match[1].str() + std::to_string(int(std::stol(match[2].str()) * factor) + plus) +
         match[3].str();
}

const Rule kRules[] = {
    {"without",
     "^(@\\S+ "
     ")?(bar\\.(?:warp\\.)?sync|fence\\.|griddepcontrol\\.wait|cp\\.async\\.(bulk\\.)?(wait|"
     "commit)_group|mbarrier\\.(arrive|init)|wgmma\\.(fence|commit|wait)|barrier\\.cluster).*",
     [](const std::smatch &) { return ""; }},
    {"not waiting", "^mbarrier\\.try_wait\\S* (\\S+),.*",
     [](const std::smatch &m) { return "setp.eq.u32 " + m[1].str() + ", 0, 0;"; }},
    {"other parity", "^(mbarrier\\.try_wait.*, )(%\\w+);",
     [](const std::smatch &m) {
       return "{ .reg .b32 other; xor.b32 other, " + m[2].str() + ", 1; " + m[1].str() + "other; }";
     }},
    {"one more in flight", "^((?:cp\\.async\\.|wgmma\\.)\\S*wait_group\\S* )(\\d+)(;)",
     [](const std::smatch &m) { return scaled(m, 1, 1); }},
    {"one more arrival", "^(mbarrier\\.init.*, )(\\d+)(;)",
     [](const std::smatch &m) { return scaled(m, 1, 1); }},
    {"one arrival less", "^(mbarrier\\.init.*, )([2-9])(;)",
     [](const std::smatch &m) { return scaled(m, 1, -1); }},
    {"half the bytes", "^(.*expect_tx.*, )(\\d+)(;)",
     [](const std::smatch &m) { return scaled(m, 0.5, 0); }},
    {"twice the bytes", "^(.*expect_tx.*, )(\\d+)(;)",
     [](const std::smatch &m) { return scaled(m, 2, 0); }},
    {"half the copy", "^(cp\\.async\\.bulk\\.[sg].*, )(\\d{4})([,;].*)",
     [](const std::smatch &m) { return scaled(m, 0.5, 0); }},
    {"fewer threads", "^(bar\\.sync 1, )(128)(;)",
     [](const std::smatch &m) { return scaled(m, 0.75, 0); }},
    {"a bound more", "^setp\\.lt(.*)", [](const std::smatch &m) { return "setp.le" + m[1].str(); }},
    {"a bound more", "^setp\\.ge(.*)", [](const std::smatch &m) { return "setp.gt" + m[1].str(); }},
    {"relaxed", "^(.*atom\\.)acq_rel(.*)",
     [](const std::smatch &m) { return m[1].str() + "relaxed" + m[2].str(); }},
    {"block scope only", "^(fence\\.acq_rel\\.|.*atom\\.acq_rel\\.)gpu(.*)",
     [](const std::smatch &m) { return m[1].str() + "cta" + m[2].str(); }},
    {"block scope only", "^(.*mbarrier.*\\.(?:acquire|release)\\.)cluster(\\.shared.*)",
     [](const std::smatch &m) { return m[1].str() + "cta" + m[2].str(); }},
    {"relaxed", "^(barrier\\.cluster\\.arrive\\.)release(.*)",
     [](const std::smatch &m) { return m[1].str() + "relaxed" + m[2].str(); }},
    {"to one block", "^(mov\\.b16 %both, )(3)(;)",
     [](const std::smatch &m) { return scaled(m, 0, 1); }},
    {"to the other block", "^(mov\\.b16 %both, )(3)(;)",
     [](const std::smatch &m) { return scaled(m, 0, 2); }},
    {"without multicast", "^(cp\\.async.*)\\.multicast::cluster(.*), %both;",
     [](const std::smatch &m) { return m[1].str() + m[2].str() + ";"; }},
    {"in the same block", "^(mapa.*, )(\\d)(;)",
     [](const std::smatch &m) { return m[1].str() + (m[2] == "0" ? "1" : "0") + m[3].str(); }},
    {"another box", "^(cp\\.async\\.bulk\\.tensor.*\\{)(%\\w+), (%\\w+)(\\}.*)",
     [](const std::smatch &m) { return m[1].str() + m[3].str() + ", " + m[2].str() + m[4].str(); }},
    {"half the box apart", "^(mad\\.lo\\.u32 %r6, %rank, )(2048)(,.*)",
     [](const std::smatch &m) { return scaled(m, 0.5, 0); }},
    {"as constant", "^ld\\.global\\.(v[24]\\.f32.*)",
     [](const std::smatch &m) { return "ld.global.nc." + m[1].str(); }},
    {"for all lanes", "^@%(?:low|high) (.*)", [](const std::smatch &m) { return m[1].str(); }},
    {"for all lanes", "^@\\S+ ((?:atom|mbarrier|cp).*)",
     [](const std::smatch &m) { return m[1].str(); }},
    {"without zero fill", "^(cp\\.async.*), %size[01];",
     [](const std::smatch &m) { return m[1].str() + ";"; }},
    {"as if always elected", "^elect\\.sync .*(%\\w+), -1;",
     [](const std::smatch &m) { return "setp.eq.u32 " + m[1].str() + ", 0, 0;"; }},
};

struct Mutant {
  std::string name, text;
};

std::vector<Mutant> mutantsOf(const Kernel &kernel, const std::string &text) {
  std::vector<std::string> lines;
  std::stringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    lines.push_back(line);
  std::vector<Mutant> mutants;
  for (size_t n = 0; n < lines.size(); ++n) {
    std::string line = lines[n].substr(std::min(lines[n].size(), lines[n].find_first_not_of(' ')));
    for (const Rule &rule : kRules) {
      std::smatch match;
      if (!std::regex_match(line, match, std::regex(rule.pattern)))
        continue;
      std::string result;
      for (size_t k = 0; k < lines.size(); ++k)
        result += (k == n ? rule.replace(match) : lines[k]) + "\n";
      mutants.push_back({std::string(kernel.file) + ":" + std::to_string(n + 1) + ": " + rule.name +
                             ": " + line.substr(0, 60),
                         result});
    }
  }
  return mutants;
}

TEST(Mutation, MutantsAreCaught) {
  size_t count = 0, caught = 0;
  for (const Kernel &kernel : kKernels) {
    std::string text = textOf(kernel);
    auto original = parse(text);
    ASSERT_TRUE(original) << original.error().message;
    auto expected = kernel.run(*original, 0);
    ASSERT_TRUE(expected) << expected.error().message;
    for (const Mutant &mutant : mutantsOf(kernel, text)) {
      auto module = parse(mutant.text);
      ASSERT_TRUE(module) << mutant.name << ": " << module.error().message;
      std::string how;
      for (uint64_t seed = 0; seed < kSeeds && how.empty(); ++seed) {
        auto values = kernel.run(*module, seed);
        if (!values)
          how = values.error().message.substr(0, values.error().message.find('\n'));
        else if (*values != *expected)
          how = "another result";
      }
      ++count;
      caught += !how.empty();
      std::printf("%s %s\n    %s\n", how.empty() ? "SURVIVED" : "caught", mutant.name.c_str(),
                  how.c_str());
    }
  }
  std::printf("%zu of %zu mutants caught\n", caught, count);
  EXPECT_GE(count, 40u);
  EXPECT_GE(double(caught), 0.95 * double(count));
}

} // namespace
} // namespace moe::ptxsim
