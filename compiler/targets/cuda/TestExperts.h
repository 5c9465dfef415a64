// What the tests of routers, of gate and up, and of down share: tokens grouped by expert, and the
// weights of a layer's second half with what the reference makes of them.
#ifndef MOE_COMPILER_TARGETS_CUDA_TESTEXPERTS_H
#define MOE_COMPILER_TARGETS_CUDA_TESTEXPERTS_H

#include "compiler/kernels/down/Down.h"
#include "compiler/kernels/gate_up/GateUp.h"
#include "compiler/targets/cuda/TestKernels.h"
#include <numeric>

namespace moe::codegen {

// Tokens by their expert, in order inside a group, and where each group begins.
struct Groups {
  Ints order, offsets;
};
inline Groups groupsOf(const Ints &chosen, int64_t experts) {
  Groups g{Ints(chosen.size()), Ints(experts + 1)};
  std::iota(g.order.begin(), g.order.end(), 0);
  llvm::sort(g.order,
             [&](int a, int b) { return std::pair(chosen[a], a) < std::pair(chosen[b], b); });
  for (int32_t e : chosen)
    if (experts)
      ++g.offsets[e + 1];
  std::partial_sum(g.offsets.begin(), g.offsets.end(), g.offsets.begin());
  return g;
}

// Of gate and up, and of down. Without experts `shared` is the dense layer's.
struct FeedForwardFormats {
  WeightFormat shared, routed, sharedDown, routedDown;
};

// A dense layer, or a shared expert and routed ones.
struct FeedForward {
  int64_t hidden, width, experts;
  FeedForwardFormats formats;
  TestWeight gateUp[2], down[2]; // of the shared expert, of the routed ones

  FeedForward(std::mt19937 &generator, int64_t hidden, int64_t width, int64_t experts,
              const FeedForwardFormats &formats)
      : hidden(hidden), width(width), experts(experts), formats(formats) {
    const float in = 1 / std::sqrt(float(hidden)), out = 1 / std::sqrt(float(width));
    for (int64_t m = 0; m < matrices(); ++m) {
      const int64_t count = m ? experts : 1;
      gateUp[m] = testWeight(generator, m ? formats.routed : formats.shared, count, 2 * width,
                             hidden, in, WeightLayout::Kind::FragmentsGateUp);
      down[m] = testWeight(generator, m ? formats.routedDown : formats.sharedDown, count, hidden,
                           width, out);
    }
  }
  FeedForward(std::mt19937 &generator, int64_t hidden, int64_t width, int64_t experts,
              const WeightFormat &format = kBf16)
      : FeedForward(generator, hidden, width, experts, {format, format, format, format}) {}

  int64_t matrices() const { return experts ? 2 : 1; } // that a token goes through

  CudaSmallGateUp smallGateUp() const {
    return {hidden, width, experts, 1, formats.shared, formats.routed, kEps};
  }
  CudaTiledGateUp tiledGateUp(int64_t tile) const {
    return {hidden, width, experts, 1, formats.shared, formats.routed, kEps, tile};
  }
  CudaSmallDown smallDown(int64_t splits) const {
    return {hidden, width, experts, 1, formats.sharedDown, formats.routedDown, splits};
  }
  CudaTiledDown tiledDown(int64_t tile) const {
    return {hidden, width, experts, 1, formats.sharedDown, formats.routedDown, tile};
  }

  // The operands that are weights.
  std::vector<PtxArgument> put(PtxBench &bench, const TestWeight (&w)[2]) const {
    std::vector<PtxArgument> all{{Operand::SharedWeight, bench.put(w[0].bytes, "shared weight")}};
    if (experts)
      all.push_back({Operand::RoutedWeight, bench.put(w[1].bytes, "routed weight")});
    return all;
  }

  // Rows of tokens for the shared expert, then those for the chosen ones.
  Floats wide(const Floats &x, const Ints &chosen, const Floats &scores) const {
    Floats rows;
    for (int64_t m = 0; m < matrices(); ++m)
      for (size_t t = 0; t < chosen.size(); ++t) {
        Floats both = reference::linear(reference::View(x).subspan(t * hidden, hidden),
                                        matrix(gateUp, m, chosen[t]), hidden);
        for (float &v : both)
          v *= m ? scores[t] : 1;
        Floats row = reference::swiglu(reference::View(both).first(width),
                                       reference::View(both).last(width));
        rows.insert(rows.end(), row.begin(), row.end());
      }
    return rows;
  }
  // h and what the down projections of these rows add to it.
  Floats added(const Floats &h, const Floats &wide, const Ints &chosen) const {
    Floats sum = h;
    for (int64_t m = 0; m < matrices(); ++m)
      for (size_t t = 0; t < chosen.size(); ++t) {
        const int64_t row = m * chosen.size() + t;
        Floats y = reference::linear(reference::View(wide).subspan(row * width, width),
                                     matrix(down, m, chosen[t]), width);
        for (int64_t c = 0; c < hidden; ++c)
          sum[t * hidden + c] += y[c];
      }
    return sum;
  }

private:
  // Of a token: the shared matrix (0), or that of its expert.
  reference::View matrix(const TestWeight (&w)[2], int64_t m, int32_t expert) const {
    const int64_t size = w[0].values.size();
    return m ? reference::View(w[1].values).subspan(expert * size, size)
             : reference::View(w[0].values);
  }
};

// A larger step, as the router leaves it.
struct RoutedTokens {
  Ints chosen; // of a dense layer: zeros
  Groups groups;
  Floats scores, x, h;

  RoutedTokens(std::mt19937 &generator, const FeedForward &layer, const Ints &chosen)
      : chosen(chosen), groups(groupsOf(chosen, layer.experts)) {
    std::uniform_real_distribution<float> uniform(0.1f, 1);
    for (size_t t = 0; t < chosen.size(); ++t)
      scores.push_back(uniform(generator));
    x = normalBf16(generator, chosen.size() * layer.hidden);
    h = normalFloats(generator, chosen.size() * layer.hidden);
  }
  int32_t tokens() const { return int32_t(chosen.size()); }
  cuda::StepInfo step() const { return {tokens(), 0, 0, 0}; }
};

inline Ints anyExperts(std::mt19937 &generator, int64_t experts, int32_t tokens) {
  std::uniform_int_distribution<int32_t> any(0, std::max<int64_t>(experts, 1) - 1);
  Ints chosen(tokens);
  for (int32_t &e : chosen)
    e = any(generator);
  return chosen;
}

// Runs the down projections of a larger step on these rows: the rows of h that they leave.
inline Floats runDown(const PtxKernel &kernel, const FeedForward &layer, const RoutedTokens &s,
                      const Halves &wide, uint64_t seed, int64_t blocks, bool races = true) {
  PtxBench bench(seed);
  bench.options.races = races;
  uint64_t h = bench.put(f32Rows(s.h, layer.hidden), "h");
  std::vector<PtxArgument> arguments = layer.put(bench, layer.down);
  arguments.insert(arguments.end(),
                   {{Operand::Hidden, bench.put(wide, "hidden")}, {Operand::H, h}});
  if (layer.experts)
    arguments.insert(arguments.end(), {{Operand::Order, bench.put(s.groups.order, "order")},
                                       {Operand::Offsets, bench.put(s.groups.offsets, "offsets")}});
  bench.run(kernel, blocks, arguments, s.step());
  return testing::Test::HasFailure() ? Floats()
                                     : bench.get<float>(h, s.tokens() * padded(layer.hidden));
}
inline void expectDown(const FeedForward &layer, const RoutedTokens &s, const Halves &wide,
                       const Floats &got) {
  expectNear(valuesOf(got, layer.hidden), layer.added(s.h, valuesOf(wide, layer.width), s.chosen),
             kSum, "down");
}

} // namespace moe::codegen

#endif
