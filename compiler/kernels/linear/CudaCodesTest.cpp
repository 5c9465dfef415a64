// Kernels whose weights are codes in groups of whole rows, or of different formats for the shared
// and the routed experts, on the simulator against MoeReference; and that every kernel of the
// published models fits the shared memory of its target.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/TestModel.h"
#include "compiler/targets/cuda/TestPtx.h"
#include "dialects/moe/MoeReference.h"
#include <numeric>

using namespace moe;
using namespace moe::codegen;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;
using Halves = std::vector<uint16_t>;

constexpr float kEps = 1e-5f;
constexpr double kF32 = 5e-6, kRounded = 5e-3; // tolerances, of the largest value

// In groups of whole rows: those of so many columns.
WeightFormat fp8Rows(int64_t columns) { return {Storage::F8E4M3, columns, Storage::F32}; }
WeightFormat int8Rows(int64_t columns) { return {Storage::I8, columns, Storage::F16}; }
WeightFormat int4Rows(int64_t columns) { return {Storage::I4, columns, Storage::BF16}; }
using Rows = WeightFormat (*)(int64_t);

Halves toRows(const Floats &values, int64_t n) {
  Halves rows(values.size() / n * padded(n));
  for (size_t i = 0; i < values.size(); ++i)
    rows[i / n * padded(n) + i % n] = toBf16(values[i]);
  return rows;
}
Floats padRows(const Floats &values, int64_t n) {
  Floats rows(values.size() / n * padded(n), -77);
  for (size_t i = 0; i < values.size(); ++i)
    rows[i / n * padded(n) + i % n] = values[i];
  return rows;
}
template <class T> Floats fromRows(const std::vector<T> &rows, int64_t n) {
  Floats values;
  for (size_t i = 0; i < rows.size(); ++i)
    if (int64_t(i) % padded(n) < n) {
      if constexpr (std::is_same_v<T, uint16_t>)
        values.push_back(fromBf16(rows[i]));
      else
        values.push_back(rows[i]);
    } else {
      EXPECT_EQ(double(rows[i]), sizeof(T) == 2 ? 0 : -77) << "padding at " << i;
    }
  return values;
}

void expectNear(const Floats &got, const Floats &want, double tolerance, const std::string &what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double largest = 0, error = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i])) << what << ", element " << i;
    largest = std::max(largest, std::abs(double(want[i])));
    error = std::max(error, std::abs(double(got[i]) - want[i]));
  }
  EXPECT_LE(error, tolerance * largest) << what;
}

struct CodeKernels : testing::Test {
  std::mt19937 generator{11};
};

//===----------------------------------------------------------------------===//
// Whole rows
//===----------------------------------------------------------------------===//

// Columns that do not fill a tile of the columns, odd numbers of strips, and shares of K that cut a
// row's group; and rows so long that on sm_80 little is left for the ring.
TEST_F(CodeKernels, SmallLinear) {
  for (const char *chip : {"sm_80", "sm_90a"})
    for (auto [format, inputs, outputs, splits] : {std::tuple{fp8Rows(1096), 1096, 40, 2},
                                                   {int8Rows(200), 200, 24, 1},
                                                   {int4Rows(2112), 2112, 40, 4},
                                                   {fp8Rows(48), 48, 17, 1},
                                                   {kBf16, 8192, 24, 1},
                                                   {kInt8, 8192, 24, 1},
                                                   {fp8Rows(8192), 8192, 24, 1}})
      for (int32_t tokens : {1, 8}) {
        CudaSpec spec{LinearResidualSpec{inputs, outputs, format}, kSmallTokens, splits};
        PtxKernel kernel(spec, emitSmallLinear, chip);
        Floats x = normalBf16(generator, tokens * inputs),
               h = normalFloats(generator, tokens * outputs);
        TestWeight w =
            testWeight(generator, format, 1, outputs, inputs, 1 / std::sqrt(float(inputs)));
        Floats want = reference::linearResidual(x, w.values, h, inputs), first;
        for (auto [seed, blocks] : {std::pair{0, 3}, {1, 7}}) {
          PtxBench bench;
          bench.options.seed = seed;
          uint64_t to = bench.put(padRows(h, outputs));
          bench.run(kernel, blocks,
                    {bench.put(toRows(x, inputs)), bench.put(w.bytes), to,
                     bench.room(partialBytes(spec)),
                     bench.put(std::vector<uint8_t>(counterBytes(spec)))},
                    {tokens, 0, 0, 0});
          if (HasFailure())
            return;
          Floats got = fromRows(bench.get<float>(to, tokens * padded(outputs)), outputs);
          expectNear(got, want, kF32, kernel.name);
          EXPECT_EQ(first.empty() ? got : first, got) << "seed " << seed;
          first = got;
        }
      }
}

TEST_F(CodeKernels, TiledLinearOfWholeRows) {
  for (auto [chip, tile, format, inputs, outputs] :
       {std::tuple{"sm_80", 128, Rows(fp8Rows), 200, 150},
        {"sm_80", 64, int8Rows, 136, 130},
        {"sm_90a", 64, int4Rows, 320, 40},
        {"sm_90a", 128, fp8Rows, 200, 150},
        {"sm_90a", 128, int4Rows, 320, 40},
        {"sm_100a", 128, int8Rows, 136, 130}}) {
    PtxKernel kernel({LinearSpec{inputs, outputs, format(inputs)}, tile}, emitTiledLinear, chip);
    TestWeight w = testWeight(generator, format(inputs), 1, outputs, inputs, 0.1f);
    for (int32_t tokens : {9, 130}) {
      Floats x = normalBf16(generator, tokens * inputs), first;
      for (auto [seed, blocks] : {std::pair{0, 3}, {1, 1}}) {
        PtxBench bench;
        bench.options.seed = seed;
        uint64_t to = bench.room(tokens * outputs * 4);
        bench.run(kernel, blocks, {bench.put(toRows(x, inputs)), bench.put(w.bytes), to},
                  {tokens, 0, 0, 0});
        if (HasFailure())
          return;
        EXPECT_EQ(bench.stats.sharedConflicts, 0u);
        Floats got = bench.get<float>(to, tokens * outputs);
        expectNear(got, reference::linear(x, w.values, inputs), kF32, kernel.name);
        EXPECT_EQ(first.empty() ? got : first, got) << "seed " << seed;
        first = got;
      }
    }
  }
}

//===----------------------------------------------------------------------===//
// The experts' half of a layer
//===----------------------------------------------------------------------===//

struct Formats {
  WeightFormat shared, routed; // of gate and up
  WeightFormat sharedDown, routedDown;
};

// A mixture of experts, given what the router chose.
struct Experts {
  int64_t hidden, width, experts;
  Formats formats;
  TestWeight gateUp[2], down[2]; // of the shared expert, of the routed ones

  Experts(std::mt19937 &generator, int64_t hidden, int64_t width, int64_t experts,
          const Formats &formats)
      : hidden(hidden), width(width), experts(experts), formats(formats) {
    for (int m : {0, 1}) {
      gateUp[m] =
          testWeight(generator, m ? formats.routed : formats.shared, m ? experts : 1, 2 * width,
                     hidden, 1 / std::sqrt(float(hidden)), Layout::FragmentsGateUp);
      down[m] = testWeight(generator, m ? formats.routedDown : formats.sharedDown, m ? experts : 1,
                           hidden, width, 1 / std::sqrt(float(width)));
    }
  }
  GateUpSpec gateUpSpec() const {
    return {hidden, width, experts, 1, formats.shared, formats.routed, kEps};
  }
  DownSpec downSpec() const {
    return {hidden, width, experts, 1, formats.sharedDown, formats.routedDown};
  }
  reference::View matrix(const TestWeight (&w)[2], int32_t expert) const { // -1: shared
    const int64_t size = w[0].values.size();
    return expert < 0 ? reference::View(w[0].values)
                      : reference::View(w[1].values).subspan(expert * size, size);
  }

  // Rows of tokens for the shared expert, then those for the chosen ones.
  Floats wide(const Floats &x, const Ints &chosen, const Floats &scores) const {
    Floats rows;
    for (bool routed : {false, true})
      for (size_t t = 0; t < chosen.size(); ++t) {
        Floats both = reference::linear(reference::View(x).subspan(t * hidden, hidden),
                                        matrix(gateUp, routed ? chosen[t] : -1), hidden);
        for (float &v : both)
          v *= routed ? scores[t] : 1;
        Floats row = reference::swiglu(reference::View(both).first(width),
                                       reference::View(both).last(width));
        rows.insert(rows.end(), row.begin(), row.end());
      }
    return rows;
  }
  Floats added(const Floats &h, const Floats &wide, const Ints &chosen) const {
    Floats sum = h;
    for (bool routed : {false, true})
      for (size_t t = 0; t < chosen.size(); ++t) {
        size_t row = routed * chosen.size() + t;
        Floats y = reference::linear(reference::View(wide).subspan(row * width, width),
                                     matrix(down, routed ? chosen[t] : -1), width);
        for (int64_t c = 0; c < hidden; ++c)
          sum[t * hidden + c] += y[c];
      }
    return sum;
  }
};

// One format of whole rows for all, and the mixtures that checkpoints have.
std::vector<Formats> allFormats(int64_t hidden, int64_t width) {
  return {{fp8Rows(hidden), fp8Rows(hidden), fp8Rows(width), fp8Rows(width)},
          {kBf16, fp8Rows(hidden), kBf16, fp8Rows(width)},
          {kInt8Small, kInt4Zeros, kInt8Small, kInt4Zeros},
          {kInt8, int4Rows(hidden), kBf16, kInt4}};
}

struct Step {
  int32_t tokens;
  Ints chosen, order, offsets;
  Floats scores, x, h;
};
Step stepOf(std::mt19937 &generator, const Experts &m, int32_t tokens) {
  Step s{tokens, Ints(tokens), Ints(tokens), Ints(m.experts + 1), {}, {}, {}};
  for (int32_t &e : s.chosen)
    e = generator() % m.experts;
  std::iota(s.order.begin(), s.order.end(), 0);
  std::stable_sort(s.order.begin(), s.order.end(),
                   [&](int a, int b) { return s.chosen[a] < s.chosen[b]; });
  for (int32_t e : s.chosen)
    ++s.offsets[e + 1];
  std::partial_sum(s.offsets.begin(), s.offsets.end(), s.offsets.begin());
  std::uniform_real_distribution<float> uniform(0.1f, 1);
  for (int32_t t = 0; t < tokens; ++t)
    s.scores.push_back(uniform(generator));
  s.x = normalBf16(generator, tokens * m.hidden);
  s.h = normalFloats(generator, tokens * m.hidden);
  return s;
}

TEST_F(CodeKernels, TiledExperts) {
  const int64_t hidden = 128, width = 256;
  for (auto [chip, tile, format] : {std::tuple{"sm_80", 64, 2},
                                    {"sm_80", 128, 0},
                                    {"sm_80", 128, 1},
                                    {"sm_90a", 64, 3},
                                    {"sm_90a", 128, 0},
                                    {"sm_90a", 128, 1},
                                    {"sm_90a", 128, 3},
                                    {"sm_100a", 128, 1}}) {
    Experts m(generator, hidden, width, 3, allFormats(hidden, width)[format]);
    PtxKernel up({m.gateUpSpec(), tile}, emitTiledLinear, chip);
    PtxKernel down({m.downSpec(), tile}, emitTiledLinear, chip);
    Step s = stepOf(generator, m, tile == 128 ? 130 : 40);
    Halves rows;
    Floats sums;
    for (auto [seed, blocks] : {std::pair{0, 5}, {1, 2}}) {
      PtxBench bench;
      bench.options.seed = seed;
      const cuda::StepInfo step{s.tokens, 0, 0, 0};
      uint64_t order = bench.put(s.order), offsets = bench.put(s.offsets),
               wide = bench.room(2 * s.tokens * padded(width) * 2);
      bench.run(up, blocks,
                {bench.put(toRows(s.x, hidden)), bench.put(s.scores), order, offsets,
                 bench.put(m.gateUp[0].bytes), bench.put(m.gateUp[1].bytes), wide},
                step);
      if (HasFailure())
        return;
      Halves found = bench.get<uint16_t>(wide, 2 * s.tokens * padded(width));
      Floats values = fromRows(found, width);
      expectNear(values, m.wide(s.x, s.chosen, s.scores), kRounded, up.name);
      EXPECT_EQ(rows.empty() ? found : rows, found) << "seed " << seed;
      rows = found;

      uint64_t h = bench.put(padRows(s.h, hidden));
      bench.run(down, blocks,
                {wide, order, offsets, bench.put(m.down[0].bytes), bench.put(m.down[1].bytes), h},
                step);
      if (HasFailure())
        return;
      Floats after = fromRows(bench.get<float>(h, s.tokens * padded(hidden)), hidden);
      expectNear(after, m.added(s.h, values, s.chosen), kF32, down.name);
      EXPECT_EQ(sums.empty() ? after : sums, after) << "seed " << seed;
      sums = after;
    }
  }
}

TEST_F(CodeKernels, SmallExperts) {
  const int64_t hidden = 384, width = 1152;
  for (const char *chip : {"sm_80", "sm_90a"})
    for (const Formats &formats : allFormats(hidden, width))
      for (int32_t tokens : {1, 8}) {
        Experts m(generator, hidden, width, 4, formats);
        Step s = stepOf(generator, m, tokens);
        Floats norm = normalFloats(generator, hidden), router(4 * hidden);
        for (float &v : router) // so that scores differ
          v = std::normal_distribution<float>(0, 0.05f)(generator);
        Floats exact = reference::rmsNorm(s.h, norm, kEps), x = exact;
        for (float &v : x)
          v = fromBf16(toBf16(v));
        auto routing = reference::route(reference::linear(exact, router, hidden), 4, 1);

        PtxBench bench;
        const cuda::StepInfo step{tokens, 0, 0, 0};
        PtxKernel up({m.gateUpSpec()}, emitSmallGateUp, chip);
        uint64_t h = bench.put(padRows(s.h, hidden)),
                 wide = bench.room(2 * tokens * padded(width) * 2), chosen = bench.room(tokens * 4);
        bench.run(up, 5,
                  {h, bench.put(norm), bench.put(router), bench.put(m.gateUp[0].bytes),
                   bench.put(m.gateUp[1].bytes), wide, chosen, bench.room(4 * 8 * 4),
                   bench.put(Ints(2))},
                  step);
        if (HasFailure())
          return;
        Ints experts = bench.get<int32_t>(chosen, tokens);
        EXPECT_EQ(experts, routing.experts);
        Floats values = fromRows(bench.get<uint16_t>(wide, 2 * tokens * padded(width)), width);
        expectNear(values, m.wide(x, experts, routing.scores), kRounded, up.name);

        CudaSpec spec{m.downSpec(), kSmallTokens, 2};
        PtxKernel down(spec, emitSmallLinear, chip);
        bench.run(down, 7,
                  {wide, chosen, bench.put(m.down[0].bytes), bench.put(m.down[1].bytes), h,
                   bench.room(partialBytes(spec)),
                   bench.put(std::vector<uint8_t>(counterBytes(spec)))},
                  step);
        if (HasFailure())
          return;
        expectNear(fromRows(bench.get<float>(h, tokens * padded(hidden)), hidden),
                   m.added(s.h, values, experts), kF32, down.name);
      }
}

//===----------------------------------------------------------------------===//
// The published models
//===----------------------------------------------------------------------===//

// Every kernel that the compiler chooses has the shared memory that it wants, on every target.
TEST(ModelKernels, FitSharedMemory) {
  mlir::MLIRContext context;
  context.loadDialect<mlir::arith::ArithDialect, mlir::LLVM::LLVMDialect, mlir::math::MathDialect,
                      mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
  std::string refused;
  mlir::ScopedDiagnosticHandler handler(&context, [&](mlir::Diagnostic &diagnostic) {
    refused += diagnostic.str() + "\n";
    return mlir::success();
  });
  for (const char *model : {"scout", "maverick"})
    for (const char *weights : {"bf16", "int4", "int4-g32", "int8", "int8-row", "fp8", "fp8-g128",
                                "bf16,routed=fp8", "int8,routed=int4"}) {
      std::set<std::string> seen;
      for (auto &[tokens, calls] : modelCalls(model, weights, 128))
        for (const ModelCall &call : calls)
          if (seen.insert(call.name).second)
            for (llvm::StringRef chip : cudaTargetNames())
              EXPECT_TRUE(emitCudaKernel(&context, call.spec, *cudaTarget(chip)))
                  << model << " " << weights << ": " << std::exchange(refused, "");
      EXPECT_GE(seen.size(), 20u);
    }
}

// No ring is so small that it has a single stage: the kernel is refused instead.
TEST(ModelKernels, RefuseWhatDoesNotFit) {
  mlir::MLIRContext context;
  context.loadDialect<mlir::arith::ArithDialect, mlir::LLVM::LLVMDialect, mlir::math::MathDialect,
                      mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
  std::string refused;
  mlir::ScopedDiagnosticHandler handler(&context, [&](mlir::Diagnostic &diagnostic) {
    refused += diagnostic.str();
    return mlir::success();
  });
  CudaSpec spec{GateUpSpec{9216, 1024, 0, 0, kBf16, {}, kEps}}; // rows of 144 KiB
  EXPECT_TRUE(emitCudaKernel(&context, spec, *cudaTarget("sm_90a"))) << refused;
  EXPECT_FALSE(emitCudaKernel(&context, spec, *cudaTarget("sm_80")));
  EXPECT_NE(
      refused.find("bytes in shared memory, and a block on sm_80 has at most 166912: its rows "
                   "of activations are too long; leave out the target cuda:sm_80"),
      std::string::npos)
      << refused;
}

// Without spills at true sizes, whole rows and mixtures too.
TEST(ModelKernels, Assemble) {
  const WeightFormat wide = fp8Rows(8192), narrow = fp8Rows(5120);
  for (const char *chip : {"sm_90a", "sm_80", "sm_100a"}) {
    auto assembles = [&](const CudaSpec &spec, PtxKernel::Emitter emit) {
      PtxKernel kernel(spec, emit, chip);
      kernel.expectAssembles(168);
      EXPECT_LE(kernel.sharedBytes, kernel.target.sharedBytes) << kernel.name << " on " << chip;
    };
    assembles({GateUpSpec{5120, 8192, 128, 1, kBf16, narrow, kEps}}, emitSmallGateUp);
    assembles({DownSpec{5120, 8192, 128, 1, kBf16, wide}, kSmallTokens, 1}, emitSmallLinear);
    assembles({DownSpec{5120, 8192, 16, 1, kInt8, kInt8}, kSmallTokens, 1}, emitSmallLinear);
    assembles({LinearSpec{5120, 7168, narrow}, 128}, emitTiledLinear);
    if (chip == std::string("sm_100a")) // its tiled kernels multiply as those of sm_80
      continue;
    for (const WeightFormat &shared : {kBf16, narrow})
      assembles({GateUpSpec{5120, 8192, 128, 1, shared, narrow, kEps}, 128}, emitTiledLinear);
    assembles({DownSpec{5120, 8192, 128, 1, kBf16, wide}, 128}, emitTiledLinear);
  }
}

} // namespace
