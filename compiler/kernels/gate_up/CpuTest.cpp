// The feed-forward half of a layer: norm, gate_up and down, at odd sizes, on every processor that
// this machine has or emulates, against MoeReference. The bits of a result depend neither on the
// number of workers nor on the other tokens of the step.
#include "compiler/kernels/down/Down.h"
#include "compiler/kernels/gate_up/GateUp.h"
#include "compiler/kernels/norm/Norm.h"
#include "compiler/targets/cpu/TestCpuKernel.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

constexpr float kEps = 1e-5f;

class FeedForwardKernels : public Kernels {
protected:
  // What the shared expert is in where the routed ones have codes: bf16, or other codes in the same
  // groups, so that only what their sums begin at tells the activations apart.
  enum Shared { Same, Elements, OtherCodes };
  struct Shape {
    int64_t hidden, width, experts, k;
    Shared shared = Same;
  };

  // The kernels and weights of a layer.
  void make(const Shape &of) {
    shape = of;
    auto [hidden, width, experts, k, other] = of;
    float in = 1 / std::sqrt(float(hidden)), out = 1 / std::sqrt(float(width));
    WeightFormat fromHidden = kind.of(hidden), fromWidth = kind.of(width);
    WeightFormat shared = sharedOf(fromHidden), sharedDown = sharedOf(fromWidth);
    sharedGateUp = matrix({2 * width, hidden}, WeightLayout::Kind::PanelGateUp, shared, in);
    sharedBack = matrix({hidden, width}, WeightLayout::Kind::Panel, sharedDown, out);
    if (experts) {
      gateUp =
          matrix({experts, 2 * width, hidden}, WeightLayout::Kind::PanelGateUp, fromHidden, in);
      back = matrix({experts, hidden, width}, WeightLayout::Kind::Panel, fromWidth, out);
      router = matrix({experts, hidden}, WeightLayout::Kind::Rows, {Storage::F32}, in);
    }
    norm = norms(hidden);
    upOf = {hidden, width, experts, k, shared, fromHidden, kEps, sharedDown, fromWidth};
    downOf = {hidden, width, experts, k, sharedDown, fromWidth};
    normOf = {hidden, experts, k, shared, fromHidden, kEps};
    up = compile(upOf);
    down = compile(downOf);
    prepare = compile(normOf);
    CpuGateUp preparedOf = upOf;
    preparedOf.prepared = true;
    preparedUp = compile(preparedOf);
  }

  // Adds the layer to rows of the residual stream.
  void forward(Buffer hs, int64_t count, int workers, bool prepared = false) {
    const Step step{count, 0};
    Bytes wide(upOf.bytes(Operand::Hidden, step), std::byte(0xff));
    Bytes x(normOf.bytes(Operand::X, step));
    Ints chosen(count * shape.k + 1, -1);
    Floats scores(count * shape.k + 1);
    std::vector<Argument> norming{{Operand::H, hs}, {Operand::Norm, norm.bytes}},
        widening{{Operand::SharedWeight, sharedGateUp.bytes}, {Operand::Hidden, wide}},
        narrowing{
            {Operand::Hidden, wide}, {Operand::SharedWeight, sharedBack.bytes}, {Operand::H, hs}};
    std::vector<Argument> routing; // what the router chose
    auto add = [](std::vector<Argument> &to, const std::vector<Argument> &more) {
      to.insert(to.end(), more.begin(), more.end());
    };
    if (shape.experts) {
      norming.push_back({Operand::Router, router.bytes});
      widening.push_back({Operand::RoutedWeight, gateUp.bytes});
      narrowing.push_back({Operand::RoutedWeight, back.bytes});
      narrowing.push_back({Operand::Experts, chosen});
      routing.push_back({Operand::Experts, chosen});
      if (prepared)
        routing.push_back({Operand::Scores, scores});
    }
    if (prepared) {
      norming.push_back({Operand::X, x});
      add(norming, routing);
      run(prepare, norming, count, 0, 0, workers);
      widening.push_back({Operand::X, x});
    } else {
      add(widening, norming);
    }
    add(widening, routing);
    run(prepared ? preparedUp : up, widening, count, 0, 0, workers);
    run(down, narrowing, count, 0, 0, workers);
  }

  Floats expected(const Floats &h) {
    return shape.experts
               ? reference::moeBlock(h, norm.values, router.values, sharedGateUp.values,
                                     gateUp.values, sharedBack.values, back.values, shape.k, kEps)
               : reference::mlpBlock(h, norm.values, sharedGateUp.values, sharedBack.values, kEps);
  }

  Shape shape;
  CpuGateUp upOf;
  CpuDown downOf;
  CpuNorm normOf;

private:
  WeightFormat sharedOf(const WeightFormat &routed) const {
    if (shape.shared == Same || !kind.group)
      return routed;
    if (shape.shared == Elements)
      return {Storage::BF16};
    return {routed.element == Storage::I4 ? Storage::I8 : Storage::I4, routed.group, Storage::F16};
  }

  Compiled up, down, prepare, preparedUp;
  // Of the shared expert or the dense layer, and of the routed experts.
  TestWeight sharedGateUp, sharedBack, gateUp, back, router, norm;
};

TEST_P(FeedForwardKernels, MoeAndDenseBlocks) {
  std::vector<Shape> shapes{
      {64, 384, 5, 2, Elements}, {128, 64, 3, 1, OtherCodes}, {192, 96, 0, 0}};
  if (!kind.group)
    shapes.push_back({128, 96, 70, 1});
  for (const Shape &of : shapes) {
    make(of);
    const int64_t tokens = 17, hidden = of.hidden;
    Floats h = random(tokens * hidden);
    Bytes whole = rowsOf(h, hidden, Storage::F32), many = whole, prepared = whole, alone = whole;
    forward(whole, tokens, 1);
    expectNear(valuesOf(whole, tokens, hidden, Storage::F32), expected(h));
    forward(many, tokens, 5);
    EXPECT_EQ(many, whole);
    forward(prepared, tokens, 3, true);
    EXPECT_EQ(prepared, whole);
    for (int64_t t = 0; t < tokens; ++t)
      forward({alone, size_t(t * padded(hidden) * 4)}, 1, 2);
    EXPECT_EQ(alone, whole);
  }
}

// Weights that are large enough for workers to claim their parts: of a dense layer, and of experts,
// of which some have more tokens than others.
class FeedForwardClaims : public FeedForwardKernels {};

TEST_P(FeedForwardClaims, KeepBitsOnAnyWorkers) {
  const int64_t hidden = 512, width = kClaimedBytes * 8 / infoOf(kind.element).bits / hidden;
  std::vector<Shape> shapes{{hidden, width / 2 + 96, 3, 2, OtherCodes}};
  if (!kind.group)
    shapes.push_back({hidden, width, 0, 0});
  for (const Shape &of : shapes) {
    make(of);
    ASSERT_GE(upOf.weightBytes(), kClaimedBytes);
    ASSERT_GE(downOf.weightBytes(), kClaimedBytes);
    const int64_t most = 40, rowBytes = padded(of.hidden) * 4;
    Floats h = random(most * of.hidden);
    const Bytes before = rowsOf(h, of.hidden, Storage::F32);
    auto go = [&](int64_t tokens, int workers, bool prepared) {
      Bytes rows(before.begin(), before.begin() + tokens * rowBytes);
      forward(rows, tokens, workers, prepared);
      return rows;
    };
    const Bytes whole = go(most, 1, false);
    h.resize(3 * of.hidden);
    expectNear(valuesOf(whole, 3, of.hidden, Storage::F32), expected(h));
    for (int64_t tokens : {int64_t(1), int64_t(3), most})
      for (int workers : {1, 2, 3, 7, 64})
        for (bool prepared : {false, true})
          EXPECT_EQ(go(tokens, workers, prepared),
                    Bytes(whole.begin(), whole.begin() + tokens * rowBytes))
              << tokens << " tokens, " << workers << " workers, prepared " << prepared;
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, FeedForwardClaims, someKinds({kInt4Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, FeedForwardClaims, allClaimedKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Cpu, FeedForwardKernels, someKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, FeedForwardKernels, emulatedKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(CpuCodes, FeedForwardKernels, otherCodes(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Emulated, FeedForwardKernels, emulatedInstructions(), nameOfCase);

} // namespace
