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

class FeedForwardKernels : public Kernels {};

TEST_P(FeedForwardKernels, MoeAndDenseBlocks) {
  // What the shared expert is in where the routed ones have codes: bf16, or other codes in the same
  // groups, so that only what their sums begin at tells the activations apart.
  enum Shared { Same, Elements, OtherCodes };
  struct Case {
    int64_t hidden, width, experts, k;
    Shared shared = Same;
  };
  std::vector<Case> cases{{64, 384, 5, 2, Elements}, {128, 64, 3, 1, OtherCodes}, {192, 96, 0, 0}};
  if (!kind.group)
    cases.push_back({128, 96, 70, 1});
  for (auto [hidden, width, experts, k, other] : cases) {
    int64_t tokens = 17;
    float in = 1 / std::sqrt(float(hidden)), out = 1 / std::sqrt(float(width));
    WeightFormat fromHidden = kind.of(hidden), fromWidth = kind.of(width);
    auto sharedOf = [&, other = other](const WeightFormat &routed) -> WeightFormat {
      if (other == Same || !kind.group)
        return routed;
      if (other == Elements)
        return {Storage::BF16};
      return {routed.element == Storage::I4 ? Storage::I8 : Storage::I4, routed.group,
              Storage::F16};
    };
    WeightFormat shared = sharedOf(fromHidden), sharedDown = sharedOf(fromWidth);
    // Of the shared expert or the dense layer, and of the routed experts.
    TestWeight sharedGateUp =
                   matrix({2 * width, hidden}, WeightLayout::Kind::PanelGateUp, shared, in),
               sharedBack = matrix({hidden, width}, WeightLayout::Kind::Panel, sharedDown, out);
    TestWeight gateUp, back, router;
    if (experts) {
      gateUp =
          matrix({experts, 2 * width, hidden}, WeightLayout::Kind::PanelGateUp, fromHidden, in);
      back = matrix({experts, hidden, width}, WeightLayout::Kind::Panel, fromWidth, out);
      router = matrix({experts, hidden}, WeightLayout::Kind::Rows, {Storage::F32}, in);
    }
    TestWeight norm = norms(hidden);
    Floats h = random(tokens * hidden);
    CpuGateUp upOf{hidden, width, experts, k, shared, fromHidden, kEps, sharedDown, fromWidth};
    CpuDown downOf{hidden, width, experts, k, sharedDown, fromWidth};
    CpuNorm normOf{hidden, experts, k, shared, fromHidden, kEps};
    Compiled up = compile(upOf), down = compile(downOf), prepare = compile(normOf);
    upOf.prepared = true;
    Compiled preparedUp = compile(upOf);
    auto forward = [&](Buffer hs, int64_t count, int workers, bool prepared = false) {
      const Step step{count, 0};
      Bytes wide(upOf.bytes(Operand::Hidden, step), std::byte(0xff));
      Bytes x(normOf.bytes(Operand::X, step));
      Ints chosen(count * k + 1, -1);
      Floats scores(count * k + 1);
      std::vector<Argument> norming{{Operand::H, hs}, {Operand::Norm, norm.bytes}},
          widening{{Operand::SharedWeight, sharedGateUp.bytes}, {Operand::Hidden, wide}},
          narrowing{
              {Operand::Hidden, wide}, {Operand::SharedWeight, sharedBack.bytes}, {Operand::H, hs}};
      std::vector<Argument> routing; // what the router chose
      auto add = [](std::vector<Argument> &to, const std::vector<Argument> &more) {
        to.insert(to.end(), more.begin(), more.end());
      };
      if (experts) {
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
    };
    Bytes whole = rowsOf(h, hidden, Storage::F32), many = whole, prepared = whole, alone = whole;
    forward(whole, tokens, 1);
    expectNear(valuesOf(whole, tokens, hidden, Storage::F32),
               experts ? reference::moeBlock(h, norm.values, router.values, sharedGateUp.values,
                                             gateUp.values, sharedBack.values, back.values, k, kEps)
                       : reference::mlpBlock(h, norm.values, sharedGateUp.values, sharedBack.values,
                                             kEps));
    forward(many, tokens, 5);
    EXPECT_EQ(many, whole);
    forward(prepared, tokens, 3, true);
    EXPECT_EQ(prepared, whole);
    for (int64_t t = 0; t < tokens; ++t)
      forward({alone, size_t(t * padded(hidden) * 4)}, 1, 2);
    EXPECT_EQ(alone, whole);
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, FeedForwardKernels, someKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, FeedForwardKernels, emulatedKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(CpuCodes, FeedForwardKernels, otherCodes(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Emulated, FeedForwardKernels, emulatedInstructions(), nameOfCase);

} // namespace
