// The kernels of one product and one weight, at odd sizes, on every processor that this machine
// has or emulates, against MoeReference. The bits of a result depend neither on the number of
// workers nor on the other tokens of the step.
#include "compiler/kernels/head/Head.h"
#include "compiler/kernels/linear/Linear.h"
#include "compiler/targets/cpu/TestCpuKernel.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

constexpr float kEps = 1e-5f;

class LinearKernel : public Kernels {};
class HeadKernel : public Kernels {};
class CodesKernel : public Kernels {};

// Weights that are just large enough for workers to claim their parts, of an odd number of rows.
class LinearClaims : public Kernels {
protected:
  static constexpr int64_t columns = 1024;
  int64_t rows = 0;

  void SetUp() override {
    Kernels::SetUp();
    rows = llvm::divideCeil(kClaimedBytes, panelBytes(kind.of(columns), columns)) * kPanel - 30;
  }
};

TEST_P(LinearKernel, AddsToTheResidual) {
  for (auto [inputs, outputs] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 64}, {96, 200}, {640, 130}, {300, 64}}) {
    int64_t tokens = 13;
    WeightFormat format = kind.of(inputs);
    ActivationRow row{format, inputs};
    TestWeight w =
        matrix({outputs, inputs}, WeightLayout::Kind::Panel, format, 1 / std::sqrt(float(inputs)));
    Floats x = random(tokens * inputs), h = random(tokens * outputs);
    Bytes xs = activations(x, row);
    Compiled kernel = compile(CpuLinearResidual{inputs, outputs, format});
    Bytes whole = rowsOf(h, outputs, Storage::F32);
    run(kernel, {{Operand::X, xs}, {Operand::Weight, w.bytes}, {Operand::H, whole}}, tokens, 0, 0,
        1);
    Floats got = valuesOf(whole, tokens, outputs, Storage::F32);
    expectNear(got, reference::linearResidual(x, w.values, h, inputs));
    // Given what the rows say, only float32 sums round.
    Floats exact = reference::linearResidual(valuesOf(xs, tokens, row), w.values, h, inputs);
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_NEAR(got[i], exact[i], 1e-5) << "element " << i;
    Bytes shared = rowsOf(h, outputs, Storage::F32), alone = shared;
    run(kernel, {{Operand::X, xs}, {Operand::Weight, w.bytes}, {Operand::H, shared}}, tokens, 0, 0,
        3);
    EXPECT_EQ(shared, whole);
    for (int64_t t = 0; t < tokens; ++t)
      run(kernel,
          {{Operand::X, {xs, size_t(t * row.bytes())}},
           {Operand::Weight, w.bytes},
           {Operand::H, {alone, size_t(t * padded(outputs) * 4)}}},
          1, 0, 0, 2);
    EXPECT_EQ(alone, whole);
    if (!row.quantized())
      continue;
    Compiled quantizing = compile(CpuLinearResidual{inputs, outputs, format, true});
    Bytes floats = rowsOf(x, inputs, Storage::F32), again = rowsOf(h, outputs, Storage::F32);
    run(quantizing, {{Operand::X, floats}, {Operand::Weight, w.bytes}, {Operand::H, again}}, tokens,
        0, 0, 2);
    EXPECT_EQ(again, whole);
  }
}

TEST_P(LinearKernel, NotANumberStaysOne) {
  int64_t n = 128;
  WeightFormat format = kind.of(n);
  TestWeight w = matrix({n, n}, WeightLayout::Kind::Panel, format, 0.1f);
  Floats x = random(2 * n);
  x[5] = std::numeric_limits<float>::quiet_NaN();
  ActivationRow row{format, n};
  Compiled kernel = compile(CpuLinearResidual{n, n, format, row.quantized()});
  Bytes xs = row.quantized() ? rowsOf(x, n, Storage::F32) : activations(x, row);
  Bytes h(2 * n * 4);
  run(kernel, {{Operand::X, xs}, {Operand::Weight, w.bytes}, {Operand::H, h}}, 2, 0, 0, 1);
  Floats got = valuesOf(h, 2, n, Storage::F32);
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_TRUE(std::isnan(got[i]));
    EXPECT_TRUE(std::isfinite(got[n + i]));
  }
}

TEST_P(HeadKernel, GivesTheLogitsOfRows) {
  for (int64_t vocabulary : {64, 259}) {
    int64_t hidden = 96, tokens = 9;
    TestWeight w = matrix({vocabulary, hidden}, WeightLayout::Kind::Panel, kind.of(hidden), 0.1f),
               norm = norms(hidden);
    Floats h = random(tokens * hidden);
    Ints rows{8, 0, 3, 3, 5, 1, 2};
    Bytes hs = rowsOf(h, hidden, Storage::F32);
    Compiled kernel = compile(CpuHead{hidden, vocabulary, kind.of(hidden), kEps});
    Floats one(rows.size() * vocabulary), three(rows.size() * vocabulary);
    for (auto [logits, workers] : {std::pair(&one, 1), std::pair(&three, 3)})
      run(kernel,
          {{Operand::Rows, rows},
           {Operand::H, hs},
           {Operand::Norm, norm.bytes},
           {Operand::Weight, w.bytes},
           {Operand::Logits, *logits}},
          tokens, 7, 0, workers);
    expectNear(one, reference::head(h, rows, norm.values, w.values, kEps));
    EXPECT_EQ(one, three);
  }
}

// Sums of codes are exact, and all targets scale them in the same order.
TEST_P(CodesKernel, HaveTheBitsOfAnotherTarget) {
  const int64_t inputs = 640, outputs = 64, tokens = 17;
  const WeightFormat format = kind.of(inputs);
  const ActivationRow row{format, inputs};
  TestWeight w =
      matrix({outputs, inputs}, WeightLayout::Kind::Panel, format, 1 / std::sqrt(float(inputs)));
  Bytes xs = activations(random(tokens * inputs), row);
  const Bytes before = rowsOf(random(tokens * outputs), outputs, Storage::F32);
  auto result = [&] {
    Bytes h = before;
    run(compile(CpuLinearResidual{inputs, outputs, format}),
        {{Operand::X, xs}, {Operand::Weight, w.bytes}, {Operand::H, h}}, tokens, 0, 0, 1);
    return h;
  };
  const Bytes here = result();
  std::string missing;
  if (!open("x86-64-v3", missing))
    GTEST_SKIP() << missing;
  EXPECT_EQ(here, result());
}

TEST_P(LinearClaims, LinearKeepsBitsOnAnyWorkers) {
  const WeightFormat format = kind.of(columns);
  const ActivationRow row{format, columns};
  const CpuLinearResidual contract{columns, rows, format};
  ASSERT_GE(contract.weightBytes(), kClaimedBytes);
  Compiled kernel = compile(contract);
  TestWeight w =
      matrix({rows, columns}, WeightLayout::Kind::Panel, format, 1 / std::sqrt(float(columns)));
  const int64_t most = 40, rowBytes = padded(rows) * 4;
  Floats x = random(most * columns), h = random(most * rows);
  Bytes xs = activations(x, row);
  auto go = [&](int64_t tokens, int workers) {
    Bytes result = rowsOf(h, rows, Storage::F32);
    result.resize(tokens * rowBytes);
    run(kernel, {{Operand::X, xs}, {Operand::Weight, w.bytes}, {Operand::H, result}},
        int32_t(tokens), 0, 0, workers);
    return result;
  };
  const Bytes whole = go(most, 1);
  expectNear(valuesOf(whole, most, rows, Storage::F32),
             reference::linearResidual(x, w.values, h, columns));
  for (int64_t tokens : {int64_t(1), int64_t(3), most})
    for (int workers : {1, 2, 3, 7, 64})
      EXPECT_EQ(go(tokens, workers), Bytes(whole.begin(), whole.begin() + tokens * rowBytes))
          << tokens << " tokens, " << workers << " workers";
}

TEST_P(LinearClaims, HeadKeepsBitsOnAnyWorkers) {
  const CpuHead contract{columns, rows, kind.of(columns), kEps};
  ASSERT_GE(contract.weightBytes(), kClaimedBytes);
  Compiled kernel = compile(contract);
  TestWeight w = matrix({rows, columns}, WeightLayout::Kind::Panel, kind.of(columns), 0.1f),
             norm = norms(columns);
  const int64_t most = 40;
  Floats h = random(most * columns);
  Bytes hs = rowsOf(h, columns, Storage::F32);
  Ints wanted(most);
  for (int32_t i = 0; i < most; ++i)
    wanted[i] = (i * 7 + 3) % int32_t(most);
  auto go = [&](int64_t count, int workers) {
    Floats logits(count * rows);
    run(kernel,
        {{Operand::Rows, wanted},
         {Operand::H, hs},
         {Operand::Norm, norm.bytes},
         {Operand::Weight, w.bytes},
         {Operand::Logits, logits}},
        int32_t(most), int32_t(count), 0, workers);
    return logits;
  };
  const Floats whole = go(most, 1);
  expectNear(whole, reference::head(h, wanted, norm.values, w.values, kEps));
  for (int64_t count : {int64_t(1), int64_t(3), most})
    for (int workers : {1, 2, 3, 7, 64})
      EXPECT_EQ(go(count, workers), Floats(whole.begin(), whole.begin() + count * rows))
          << count << " rows, " << workers << " workers";
}

// A weight of a panel less than is claimed has no counters.
TEST_P(LinearClaims, SmallerWeightsAreNotClaimed) {
  const WeightFormat format = kind.of(columns);
  for (int64_t less : {int64_t(0), kPanel}) {
    bool claimed = less == 0;
    EXPECT_EQ(llvm::is_contained(CpuLinearResidual{columns, rows - less, format}.operands(),
                                 Operand::Counters),
              claimed);
    EXPECT_EQ(llvm::is_contained(CpuHead{columns, rows - less, format, kEps}.operands(),
                                 Operand::Counters),
              claimed);
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, LinearKernel, allKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(NewerArm, LinearKernel, onNewerArm({kBf16Kind, kFp8Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, LinearKernel,
                         onNewerArm({kF32Kind, kInt8Kind, kInt4Kind, kInt4ZerosKind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Cpu, CodesKernel,
                         testing::Combine(testing::Values("x86-64-v4-amx", kAmxOnAvx2.str(),
                                                          "x86-64-v4", "x86-64-v3-vnni",
                                                          "armv8.6-a", "aarch64"),
                                          testing::Values(kInt8Kind, kInt4Kind, kInt4ZerosKind)),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Cpu, HeadKernel, allKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, HeadKernel,
                         onNewerArm({kF32Kind, kBf16Kind, kInt8Kind, kInt4ZerosKind, kFp8Kind}),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Cpu, LinearClaims, someKinds(kClaimedKinds), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, LinearClaims, aarch64Kinds(kClaimedKinds), nameOfCase);

} // namespace
