// Runs every kernel, compiled for each target that this machine can run, against the reference at
// odd sizes, and checks that the bits of a result depend neither on the number of workers nor on
// the other tokens of the step.
#include "compiler/codegen/Kernels.h"
#include "compiler/codegen/cpu/ToObject.h"
#include "dialects/moe/MoeReference.h"
#include "dialects/moe/Packing.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Verifier.h"
#include "runtime/device/cpu/KernelAbi.h"
#include "llvm/TargetParser/Host.h"
#include <gtest/gtest.h>
#include <numeric>
#include <random>
#include <set>
#include <sys/mman.h>

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;
using Bytes = std::vector<std::byte>;

class Kernels : public testing::TestWithParam<std::tuple<std::string, Storage>> {
protected:
  void SetUp() override {
    context.loadDialect<func::FuncDialect, arith::ArithDialect, LLVM::LLVMDialect,
                        math::MathDialect, scf::SCFDialect, vector::VectorDialect, MoeDialect>();
    target = *cpuTarget(std::get<0>(GetParam()));
    storage = std::get<1>(GetParam());
    llvm::StringMap<bool> has = llvm::sys::getHostCPUFeatures();
    if (target.bf16Dot && !has.lookup("avx512bf16"))
      GTEST_SKIP() << "this processor has no AVX-512 BF16";
    if (!has.lookup("avx2"))
      GTEST_SKIP() << "this processor is not x86-64-v3";
  }
  void TearDown() override {
    for (auto [at, bytes] : mappings)
      munmap(at, bytes);
  }

  cpu::Kernel compile(const KernelSpec &spec) {
    std::string name = nameOf(spec);
    auto module = emitKernel(&context, spec, target);
    EXPECT_TRUE(succeeded(verify(*module)));
    Operation *function = module->lookupSymbol(name);
    scratchFixed = function->getAttrOfType<IntegerAttr>("moe.scratch_fixed").getInt();
    scratchPerRow = function->getAttrOfType<IntegerAttr>("moe.scratch_per_row").getInt();
    EXPECT_TRUE(succeeded(lowerKernels(*module)));
    auto image = toImage(*module, target);
    if (!image) {
      ADD_FAILURE() << llvm::toString(image.takeError());
      return nullptr;
    }
    void *at = mmap(nullptr, image->code.size(), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(at, image->code.data(), image->code.size());
    mprotect(at, image->code.size(), PROT_READ | PROT_EXEC);
    mappings.push_back({at, image->code.size()});
    return reinterpret_cast<cpu::Kernel>(static_cast<char *>(at) + image->entries.lookup(name));
  }

  // All workers, one after the other, each with fresh scratch memory full of NaN.
  void run(cpu::Kernel kernel, std::vector<void *> operands, int32_t tokens, int32_t rows,
           int32_t stride, int32_t workers) {
    cpu::StepInfo step{tokens, rows, stride, 0};
    size_t bytes = scratchFixed + scratchPerRow * std::max(tokens, rows) + 64;
    for (int32_t worker = 0; worker < workers; ++worker) {
      Bytes scratch(bytes + 64, std::byte(0xff));
      auto aligned = (reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64;
      // The byte after the scratch memory must stay as it is.
      auto end = reinterpret_cast<std::byte *>(aligned) + bytes - 64;
      kernel(operands.data(), &step, reinterpret_cast<void *>(aligned), worker, workers);
      EXPECT_EQ(*end, std::byte(0xff)) << "the kernel wrote past its scratch memory";
    }
  }

  Floats random(size_t n, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    Floats values(n);
    for (float &v : values)
      v = normal(generator);
    return values;
  }
  // Rounded to the storage type, as a weight is.
  Floats weights(size_t n, float scale) {
    Floats values = random(n, scale);
    for (float &v : values)
      if (storage == Storage::BF16)
        v = reference::roundToBfloat16(v);
    return values;
  }

  Bytes pack(const Floats &values, ArrayRef<int64_t> shape, Layout layout, Storage as,
             int64_t headDim = 0) {
    Type element =
        as == Storage::F32 ? Type(Float32Type::get(&context)) : Type(BFloat16Type::get(&context));
    auto type = RankedTensorType::get(shape, element);
    auto geometry =
        *PackedGeometry::get(type, PackingAttr::get(&context, layout, element, headDim));
    Bytes bytes(geometry.bytes() + 64);
    for (int64_t o = 0; o < geometry.outer; ++o)
      for (int64_t r = 0; r < geometry.rows; ++r)
        for (int64_t c = 0; c < geometry.cols; ++c)
          put(bytes, geometry.index(o, r, c), values[(o * geometry.rows + r) * geometry.cols + c],
              as);
    return bytes;
  }
  static void put(Bytes &bytes, int64_t index, float value, Storage as) {
    uint16_t half = reference::toBfloat16(value);
    if (as == Storage::F32)
      memcpy(&bytes[index * 4], &value, 4);
    else
      memcpy(&bytes[index * 2], &half, 2);
  }
  static float get(const Bytes &bytes, int64_t index, Storage as) {
    float value;
    uint16_t half;
    if (as == Storage::F32) {
      memcpy(&value, &bytes[index * 4], 4);
      return value;
    }
    memcpy(&half, &bytes[index * 2], 2);
    return reference::fromBfloat16(half);
  }
  // [rows, n] with rows padded to 64 channels of zeros.
  Bytes rowsOf(const Floats &values, int64_t n, Storage as) {
    int64_t rows = values.size() / n;
    Bytes bytes(rows * padded(n) * bytesOf(as));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < n; ++c)
        put(bytes, r * padded(n) + c, values[r * n + c], as);
    return bytes;
  }
  Floats valuesOf(const Bytes &bytes, int64_t rows, int64_t n, Storage as) {
    Floats values;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < n; ++c)
        values.push_back(get(bytes, r * padded(n) + c, as));
    return values;
  }

  // Relative to the largest value: what float32 sums, or bf16 activations, can lose.
  void expectNear(const Floats &got, const Floats &want, double factor = 1) {
    ASSERT_EQ(got.size(), want.size());
    double largest = 0, error = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(std::isfinite(got[i])) << "element " << i;
      largest = std::max(largest, std::abs(double(want[i])));
      error = std::max(error, std::abs(double(got[i]) - want[i]));
    }
    EXPECT_LE(error, factor * largest * (storage == Storage::F32 ? 2e-6 : 1.5e-2));
  }

  MLIRContext context;
  CpuTarget target;
  Storage storage;
  std::mt19937 generator{7};
  int64_t scratchFixed = 0, scratchPerRow = 0;
  std::vector<std::pair<void *, size_t>> mappings;
};

constexpr float kEps = 1e-5f;

TEST_P(Kernels, Embed) {
  for (int64_t hidden : {40, 64, 96, 130}) {
    Floats table = weights(11 * hidden, 1);
    Ints tokens{3, 0, 10, 3, 7};
    cpu::Kernel kernel = compile(EmbedSpec{hidden, storage});
    Bytes packed = pack(table, {11, hidden}, Layout::Rows, storage);
    for (int workers : {1, 3}) {
      Bytes h(5 * padded(hidden) * 4, std::byte(0xff));
      run(kernel, {tokens.data(), packed.data(), h.data()}, 5, 0, 0, workers);
      EXPECT_EQ(valuesOf(h, 5, hidden, Storage::F32), reference::embed(tokens, table, hidden));
      for (int64_t c = hidden; c < padded(hidden); ++c)
        EXPECT_EQ(get(h, c, Storage::F32), 0);
    }
  }
}

TEST_P(Kernels, RopeTable) {
  for (int64_t headDim : {16, 64, 128}) {
    Floats frequencies = reference::ropeFrequencies(500000, headDim);
    Ints positions{0, 1, 8191, 8192, 131072, 1048575, 10485759};
    cpu::Kernel kernel = compile(RopeTableSpec{SmallVector<float>(ArrayRef(frequencies))});
    Bytes table(7 * padded(headDim) * 4 + 256);
    run(kernel, {positions.data(), table.data()}, 7, 0, 0, 2);
    Floats want = reference::ropeTable(positions, frequencies);
    Floats got = valuesOf(table, 7, headDim, Storage::F32);
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i], want[i], 2e-7) << "element " << i;
  }
}

TEST_P(Kernels, LinearResidual) {
  for (auto [inputs, outputs] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 64}, {96, 200}, {640, 130}}) {
    int64_t tokens = 13;
    Floats w = weights(outputs * inputs, 1 / std::sqrt(float(inputs)));
    Floats x = random(tokens * inputs), h = random(tokens * outputs);
    Bytes packed = pack(w, {outputs, inputs}, Layout::Panel, storage),
          xs = rowsOf(x, inputs, storage);
    cpu::Kernel kernel = compile(LinearResidualSpec{inputs, outputs, storage});
    Bytes whole = rowsOf(h, outputs, Storage::F32);
    run(kernel, {xs.data(), packed.data(), whole.data()}, tokens, 0, 0, 1);
    expectNear(valuesOf(whole, tokens, outputs, Storage::F32),
               reference::linearResidual(x, w, h, inputs));
    Bytes shared = rowsOf(h, outputs, Storage::F32), alone = shared;
    run(kernel, {xs.data(), packed.data(), shared.data()}, tokens, 0, 0, 3);
    EXPECT_EQ(shared, whole);
    for (int64_t t = 0; t < tokens; ++t)
      run(kernel,
          {&xs[t * padded(inputs) * bytesOf(storage)], packed.data(),
           &alone[t * padded(outputs) * 4]},
          1, 0, 0, 2);
    EXPECT_EQ(alone, whole);
  }
}

TEST_P(Kernels, Head) {
  for (int64_t vocabulary : {64, 96, 259}) {
    int64_t hidden = 96, tokens = 9;
    Floats w = weights(vocabulary * hidden, 0.1f), norm = weights(hidden, 1),
           h = random(tokens * hidden);
    Ints rows{8, 0, 3, 3, 5, 1, 2};
    Bytes packed = pack(w, {vocabulary, hidden}, Layout::Panel, storage);
    Bytes norms = pack(norm, {hidden}, Layout::Rows, Storage::F32),
          hs = rowsOf(h, hidden, Storage::F32);
    cpu::Kernel kernel = compile(HeadSpec{hidden, vocabulary, storage, kEps});
    Floats one(rows.size() * vocabulary), three(rows.size() * vocabulary);
    run(kernel, {rows.data(), hs.data(), norms.data(), packed.data(), one.data()}, tokens, 7, 0, 1);
    run(kernel, {rows.data(), hs.data(), norms.data(), packed.data(), three.data()}, tokens, 7, 0,
        3);
    expectNear(one, reference::head(h, rows, norm, w, kEps));
    EXPECT_EQ(one, three);
  }
}

TEST_P(Kernels, FeedForward) {
  struct Case {
    int64_t hidden, width, experts, k;
  };
  for (auto [hidden, width, experts, k] :
       {Case{64, 32, 0, 0}, Case{96, 40, 4, 1}, Case{64, 128, 5, 2}, Case{128, 96, 70, 1},
        Case{192, 96, 0, 0}}) {
    int64_t tokens = 17, groups = 1 + experts;
    Floats gateUp = weights(groups * 2 * width * hidden, 1 / std::sqrt(float(hidden)));
    Floats down = weights(groups * hidden * width, 1 / std::sqrt(float(width)));
    Floats router = random(experts * hidden, 1 / std::sqrt(float(hidden)));
    Floats norm = weights(hidden, 1), h = random(tokens * hidden);
    Bytes gateUps = pack(gateUp, {groups, 2 * width, hidden}, Layout::PanelGateUp, storage);
    Bytes downs = pack(down, {groups, hidden, width}, Layout::Panel, storage);
    Bytes routers =
        experts ? pack(router, {experts, hidden}, Layout::Panel, Storage::F32) : Bytes();
    Bytes norms = pack(norm, {hidden}, Layout::Rows, Storage::F32);
    cpu::Kernel up = compile(GateUpSpec{hidden, width, experts, k, storage, kEps});
    int64_t upFixed = scratchFixed, upPerRow = scratchPerRow;
    cpu::Kernel back = compile(DownSpec{hidden, width, experts, k, storage});
    int64_t downFixed = scratchFixed, downPerRow = scratchPerRow;
    auto forward = [&](std::byte *hs, int64_t count, int workers) {
      Bytes wide((1 + k) * count * padded(width) * bytesOf(storage), std::byte(0xff));
      Ints chosen(count * k + 1, -1);
      std::tie(scratchFixed, scratchPerRow) = std::tie(upFixed, upPerRow);
      if (experts)
        run(up, {hs, norms.data(), routers.data(), gateUps.data(), wide.data(), chosen.data()},
            count, 0, 0, workers);
      else
        run(up, {hs, norms.data(), gateUps.data(), wide.data()}, count, 0, 0, workers);
      std::tie(scratchFixed, scratchPerRow) = std::tie(downFixed, downPerRow);
      if (experts)
        run(back, {wide.data(), chosen.data(), downs.data(), hs}, count, 0, 0, workers);
      else
        run(back, {wide.data(), downs.data(), hs}, count, 0, 0, workers);
    };
    Bytes whole = rowsOf(h, hidden, Storage::F32), shared = whole, alone = whole;
    forward(whole.data(), tokens, 1);
    expectNear(valuesOf(whole, tokens, hidden, Storage::F32),
               experts ? reference::moeBlock(h, norm, router, gateUp, down, k, kEps)
                       : reference::mlpBlock(h, norm, gateUp, down, kEps));
    forward(shared.data(), tokens, 5);
    EXPECT_EQ(shared, whole);
    for (int64_t t = 0; t < tokens; ++t)
      forward(&alone[t * padded(hidden) * 4], 1, 2);
    EXPECT_EQ(alone, whole);
  }
}

TEST_P(Kernels, Attention) {
  struct Case {
    int64_t hidden, heads, kvHeads, headDim, chunk;
    bool rope, norm, temperature;
  };
  for (Storage kept : std::set{storage, Storage::F32}) // of keys and values
    for (auto c :
         {Case{64, 4, 2, 16, 8, true, true, false}, Case{96, 10, 2, 64, 0, false, false, true},
          Case{64, 2, 1, 128, 100, true, false, false}, Case{64, 3, 3, 32, 0, true, true, true},
          Case{64, 30, 1, 20, 64, true, true, false}}) {
      CacheSpec cache{.heads = c.kvHeads, .headDim = c.headDim, .chunk = c.chunk, .storage = kept};
      int64_t before = 128; // another layer's part of the page
      cache.pageBytes = before + cache.layerBytes() + 64;
      QkvSpec qkvSpec{.hidden = c.hidden,
                      .heads = c.heads,
                      .storage = storage,
                      .cache = cache,
                      .eps = kEps,
                      .rope = c.rope,
                      .qkNorm = c.norm ? std::optional(kEps) : std::nullopt,
                      .temperature =
                          c.temperature ? std::optional(std::pair(0.1f, 16.0f)) : std::nullopt};
      cpu::Kernel project = compile(qkvSpec);
      int64_t qFixed = scratchFixed, qPerRow = scratchPerRow;
      cpu::Kernel attend = compile(AttentionSpec{c.heads, storage, cache});
      int64_t aFixed = scratchFixed, aPerRow = scratchPerRow;
      cpu::Kernel rope = nullptr;
      Floats frequencies = reference::ropeFrequencies(500000, c.headDim);
      if (c.rope)
        rope = compile(RopeTableSpec{SmallVector<float>(ArrayRef(frequencies))});
      int64_t rFixed = scratchFixed, rPerRow = scratchPerRow;

      int64_t n = (c.heads + 2 * c.kvHeads) * c.headDim, out = c.heads * c.headDim;
      Floats w = weights(n * c.hidden, 1 / std::sqrt(float(c.hidden))), norm = weights(c.hidden, 1);
      Bytes packed = pack(w, {n, c.hidden}, Layout::PanelHeads, storage, c.headDim);
      Bytes norms = pack(norm, {c.hidden}, Layout::Rows, Storage::F32);

      // Three sequences of 150, 70 and 9 positions; pages in a scrambled order.
      constexpr int32_t stride = 4;
      Ints blocks{5, 2, 7, -1, 0, 6, -1, -1, 3, -1, -1, -1};
      std::vector<int32_t> lengths{150, 70, 9};
      struct Token {
        int32_t sequence, position;
      };
      std::vector<Token> all;
      for (int32_t s = 0; s < 3; ++s)
        for (int32_t p = 0; p < lengths[s]; ++p)
          all.push_back({s, p});
      Floats h = random(all.size() * c.hidden);
      std::map<std::pair<int, int>, int> index;
      for (size_t i = 0; i < all.size(); ++i)
        index[{all[i].sequence, all[i].position}] = i;

      // Runs the tokens in steps; returns the output of each.
      auto go = [&](const std::vector<std::vector<Token>> &steps, int workers) {
        Bytes pages(8 * cache.pageBytes);
        Floats result(all.size() * out);
        for (auto &step : steps) {
          int64_t T = step.size();
          Ints positions, sequences;
          Floats x;
          for (Token t : step) {
            positions.push_back(t.position);
            sequences.push_back(t.sequence);
            auto *row = &h[index[{t.sequence, t.position}] * c.hidden];
            x.insert(x.end(), row, row + c.hidden);
          }
          Bytes hs = rowsOf(x, c.hidden, Storage::F32), table(T * padded(c.headDim) * 4 + 256);
          Bytes q(T * c.heads * padded(c.headDim) * bytesOf(kept), std::byte(0xff));
          Bytes o(T * padded(out) * bytesOf(storage), std::byte(0xff));
          std::vector<void *> operands{positions.data(), sequences.data(),     blocks.data(),
                                       hs.data(),        norms.data(),         packed.data(),
                                       q.data(),         pages.data() + before};
          if (c.rope) {
            std::tie(scratchFixed, scratchPerRow) = std::tie(rFixed, rPerRow);
            run(rope, {positions.data(), table.data()}, T, 0, stride, workers);
            operands.push_back(table.data());
          }
          std::tie(scratchFixed, scratchPerRow) = std::tie(qFixed, qPerRow);
          run(project, operands, T, 0, stride, workers);
          std::tie(scratchFixed, scratchPerRow) = std::tie(aFixed, aPerRow);
          run(attend,
              {positions.data(), sequences.data(), blocks.data(), q.data(), pages.data() + before,
               o.data()},
              T, 0, stride, workers);
          Floats got = valuesOf(o, T, out, storage);
          for (int64_t i = 0; i < T; ++i)
            std::copy_n(&got[i * out], out,
                        &result[index[{step[i].sequence, step[i].position}] * out]);
          // Padding feeds the output projection.
          for (int64_t i = out; i < padded(out); ++i)
            EXPECT_EQ(get(o, i, storage), 0);
        }
        return result;
      };

      Floats whole = go({all}, 1);
      reference::KvCache oracle(c.kvHeads, c.headDim, c.chunk);
      Ints positions, sequences;
      for (Token t : all) {
        positions.push_back(t.position);
        sequences.push_back(t.sequence);
      }
      Floats table = reference::ropeTable(positions, frequencies);
      reference::AttentionOptions options;
      if (c.rope)
        options.ropeTable = table;
      if (c.norm)
        options.qkNormEps = kEps;
      if (c.temperature)
        options.temperature = reference::Temperature{0.1f, 16.0f};
      expectNear(whole,
                 reference::attentionBlock(oracle, reference::qkv(h, norm, w, kEps), positions,
                                           sequences, options),
                 2);
      EXPECT_EQ(go({all}, 3), whole);

      // Uneven pieces of mixed sequences; then one token at a time.
      std::vector<std::vector<Token>> uneven, single;
      std::vector<int32_t> next(3, 0);
      while (true) {
        std::vector<Token> step;
        for (int32_t s : {1, 0, 2})
          for (int i = generator() % 40; i > 0 && next[s] < lengths[s]; --i)
            step.push_back({s, next[s]++});
        if (!step.empty())
          uneven.push_back(step);
        if (next == lengths)
          break;
      }
      for (Token t : all)
        single.push_back({t});
      EXPECT_EQ(go(uneven, 2), whole);
      EXPECT_EQ(go(single, 1), whole);
    }
}

INSTANTIATE_TEST_SUITE_P(Targets, Kernels,
                         testing::Combine(testing::Values("x86-64-v3", "x86-64-v4"),
                                          testing::Values(Storage::F32, Storage::BF16)),
                         [](const auto &info) {
                           std::string name =
                               std::get<0>(info.param) + "_" + nameOf(std::get<1>(info.param));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

} // namespace
