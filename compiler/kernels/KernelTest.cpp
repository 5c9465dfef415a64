// Runs every kernel, compiled for each target that this machine can run or emulate, against the
// reference at odd sizes, and checks that the bits of a result depend neither on the number of
// workers nor on the other tokens of the step.
#include "compiler/targets/cpu/TestCpuKernel.h"
#include <map>
#include <set>

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

constexpr float kEps = 1e-5f;

// What one product shows; of every format.
class Products : public Kernels {};

TEST_P(Products, Embed) {
  for (int64_t hidden : {40, 64, 96, 130}) {
    Matrix table = matrix({11, hidden}, Layout::Rows, kind.of(hidden), 1);
    Ints tokens{3, 0, 10, 3, 7};
    cpu::Kernel kernel = compile(EmbedSpec{hidden, kind.of(hidden)});
    for (int workers : {1, 3}) {
      Bytes h(5 * padded(hidden) * 4, std::byte(0xff));
      run(kernel, {tokens, table.packed, h}, 5, 0, 0, workers);
      EXPECT_EQ(valuesOf(h, 5, hidden, Storage::F32),
                reference::embed(tokens, table.values, hidden));
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
    run(kernel, {positions, table}, 7, 0, 0, 2);
    Floats want = reference::ropeTable(positions, frequencies);
    Floats got = valuesOf(table, 7, headDim, Storage::F32);
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i], want[i], 2e-7) << "element " << i;
  }
}

TEST_P(Products, LinearResidual) {
  for (auto [inputs, outputs] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 64}, {96, 200}, {640, 130}, {300, 64}}) {
    int64_t tokens = 13;
    WeightFormat format = kind.of(inputs);
    ActivationRow row{format, inputs};
    Matrix w = matrix({outputs, inputs}, Layout::Panel, format, 1 / std::sqrt(float(inputs)));
    Floats x = random(tokens * inputs), h = random(tokens * outputs);
    Bytes xs = activations(x, row);
    cpu::Kernel kernel = compile(LinearResidualSpec{inputs, outputs, format});
    Bytes whole = rowsOf(h, outputs, Storage::F32);
    run(kernel, {xs, w.packed, whole}, tokens, 0, 0, 1);
    Floats got = valuesOf(whole, tokens, outputs, Storage::F32);
    expectNear(got, reference::linearResidual(x, w.values, h, inputs));
    // Given what the rows say, only float32 sums round.
    Floats exact = reference::linearResidual(valuesOf(xs, tokens, row), w.values, h, inputs);
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_NEAR(got[i], exact[i], 1e-5) << "element " << i;
    Bytes shared = rowsOf(h, outputs, Storage::F32), alone = shared;
    run(kernel, {xs, w.packed, shared}, tokens, 0, 0, 3);
    EXPECT_EQ(shared, whole);
    for (int64_t t = 0; t < tokens; ++t)
      run(kernel,
          {{xs, size_t(t * row.bytes())}, w.packed, {alone, size_t(t * padded(outputs) * 4)}}, 1, 0,
          0, 2);
    EXPECT_EQ(alone, whole);
    if (!row.quantized())
      continue;
    cpu::Kernel quantizing = compile(LinearResidualSpec{inputs, outputs, format, true});
    Bytes floats = rowsOf(x, inputs, Storage::F32), again = rowsOf(h, outputs, Storage::F32);
    run(quantizing, {floats, w.packed, again}, tokens, 0, 0, 2);
    EXPECT_EQ(again, whole);
  }
}

TEST_P(Products, NotANumberStaysOne) {
  int64_t n = 128;
  WeightFormat format = kind.of(n);
  Matrix w = matrix({n, n}, Layout::Panel, format, 0.1f);
  Floats x = random(2 * n);
  x[5] = std::numeric_limits<float>::quiet_NaN();
  ActivationRow row{format, n};
  cpu::Kernel kernel = compile(LinearResidualSpec{n, n, format, row.quantized()});
  Bytes xs = row.quantized() ? rowsOf(x, n, Storage::F32) : activations(x, row);
  Bytes h(2 * n * 4);
  run(kernel, {xs, w.packed, h}, 2, 0, 0, 1);
  Floats got = valuesOf(h, 2, n, Storage::F32);
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_TRUE(std::isnan(got[i]));
    EXPECT_TRUE(std::isfinite(got[n + i]));
  }
}

TEST_P(Products, Head) {
  for (int64_t vocabulary : {64, 96, 259}) {
    int64_t hidden = 96, tokens = 9;
    Matrix w = matrix({vocabulary, hidden}, Layout::Panel, kind.of(hidden), 0.1f),
           norm = norms(hidden);
    Floats h = random(tokens * hidden);
    Ints rows{8, 0, 3, 3, 5, 1, 2};
    Bytes hs = rowsOf(h, hidden, Storage::F32);
    cpu::Kernel kernel = compile(HeadSpec{hidden, vocabulary, kind.of(hidden), kEps});
    Floats one(rows.size() * vocabulary), three(rows.size() * vocabulary);
    std::vector<Buffer> operands{rows, hs, norm.packed, w.packed, one};
    run(kernel, operands, tokens, 7, 0, 1);
    operands.back() = three;
    run(kernel, operands, tokens, 7, 0, 3);
    expectNear(one, reference::head(h, rows, norm.values, w.values, kEps));
    EXPECT_EQ(one, three);
  }
}

TEST_P(Kernels, FeedForward) {
  // What the shared expert is in where the routed ones have codes: bf16, or other codes in the same
  // groups, so that only what their sums begin at tells the activations apart.
  enum Shared { Same, Elements, OtherCodes };
  struct Case {
    int64_t hidden, width, experts, k;
    Shared shared = Same;
  };
  std::vector<Case> cases{
      {96, 40, 4, 1}, {64, 384, 5, 2, Elements}, {128, 64, 3, 1, OtherCodes}, {192, 96, 0, 0}};
  if (!kind.group)
    cases.insert(cases.end(), {{64, 32, 0, 0}, {128, 96, 70, 1}});
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
    Matrix sharedGateUp = matrix({2 * width, hidden}, Layout::PanelGateUp, shared, in),
           sharedBack = matrix({hidden, width}, Layout::Panel, sharedDown, out);
    Matrix gateUp, back, router;
    if (experts) {
      gateUp = matrix({experts, 2 * width, hidden}, Layout::PanelGateUp, fromHidden, in);
      back = matrix({experts, hidden, width}, Layout::Panel, fromWidth, out);
      router = matrix({experts, hidden}, Layout::Rows, {Storage::F32}, in);
    }
    Matrix norm = norms(hidden);
    Floats h = random(tokens * hidden);
    GateUpSpec upSpec{hidden, width, experts, k, shared, fromHidden, kEps, sharedDown, fromWidth};
    Compiled up = compiled(upSpec);
    Compiled down = compiled(DownSpec{hidden, width, experts, k, sharedDown, fromWidth});
    Compiled prepare = compiled(NormRowsSpec{hidden, experts, k, shared, fromHidden, kEps});
    upSpec.prepared = true;
    Compiled preparedUp = compiled(upSpec);
    auto forward = [&](Buffer hs, int64_t count, int workers, bool prepared = false) {
      Bytes wide(count * (ActivationRow{sharedDown, width}.bytes() +
                          k * ActivationRow{fromWidth, width}.bytes()),
                 std::byte(0xff));
      Bytes x(count *
              (ActivationRow{shared, hidden}.bytes() + ActivationRow{fromHidden, hidden}.bytes()));
      Ints chosen(count * k + 1, -1);
      Floats scores(count * k + 1);
      Buffer w = sharedGateUp.packed, routed = gateUp.packed;
      std::vector<Buffer> norming{hs, norm.packed}, operands = norming;
      if (experts) {
        for (auto *list : {&norming, &operands})
          list->push_back(router.packed);
        norming.insert(norming.end(), {x, chosen, scores});
        if (prepared)
          operands = {x, chosen, scores};
        operands.insert(operands.end(), {w, routed, wide});
        if (!prepared)
          operands.push_back(chosen);
      } else {
        norming.push_back(x);
        if (prepared)
          operands = {x};
        operands.insert(operands.end(), {w, wide});
      }
      if (prepared)
        run(prepare, norming, count, 0, 0, workers);
      run(prepared ? preparedUp : up, operands, count, 0, 0, workers);
      if (experts)
        run(down, {wide, chosen, sharedBack.packed, back.packed, hs}, count, 0, 0, workers);
      else
        run(down, {wide, sharedBack.packed, hs}, count, 0, 0, workers);
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

TEST_P(Kernels, Attention) {
  struct Case {
    int64_t hidden, heads, kvHeads, headDim, chunk;
    bool rope, norm, temperature;
  };
  // Heads of 128 channels, and such whose channels share a unit of the output's rows with others'.
  std::vector<Case> cases{{64, 4, 2, 16, 8, true, true, false},
                          {64, 2, 1, 128, 100, true, false, false}};
  if (!kind.group)
    cases.insert(cases.end(), {{96, 10, 2, 64, 0, false, false, true},
                               {64, 3, 3, 32, 0, true, true, true},
                               {64, 30, 1, 20, 64, true, true, false}});
  std::set<Storage> storages{storage}; // of keys and values
  if (!kind.group)
    storages.insert(Storage::F32);
  if (kind.element == Storage::BF16)
    storages.insert(Storage::I8);
  for (Storage kept : storages)
    for (auto c : cases) {
      CacheSpec cache{.heads = c.kvHeads, .headDim = c.headDim, .chunk = c.chunk, .storage = kept};
      int64_t before = 128; // another layer's part of the page
      cache.pageBytes = before + cache.layerBytes() + 64;
      QkvSpec qkvSpec{.hidden = c.hidden,
                      .heads = c.heads,
                      .format = kind.of(c.hidden),
                      .cache = cache,
                      .eps = kEps,
                      .rope = c.rope,
                      .qkNorm = c.norm ? std::optional(kEps) : std::nullopt,
                      .temperature =
                          c.temperature ? std::optional(std::pair(0.1f, 16.0f)) : std::nullopt};
      Compiled project = compiled(qkvSpec);
      qkvSpec.prepared = true;
      Compiled projectPrepared = compiled(qkvSpec);
      qkvSpec.prepared = false;
      qkvSpec.attention = kind.of(c.heads * c.headDim);
      Compiled both = compiled(qkvSpec);
      const NormRowsSpec normSpec{c.hidden, 0, 0, qkvSpec.format, qkvSpec.format, kEps};
      Compiled prepare = compiled(normSpec);
      const AttentionSpec attentionSpec{c.heads, kind.of(c.heads * c.headDim), cache};
      Compiled attend = compiled(attentionSpec), rope{};
      Floats frequencies = reference::ropeFrequencies(500000, c.headDim);
      if (c.rope)
        rope = compiled(RopeTableSpec{SmallVector<float>(ArrayRef(frequencies))});

      int64_t n = (c.heads + 2 * c.kvHeads) * c.headDim, out = c.heads * c.headDim;
      Matrix w = matrix({n, c.hidden}, Layout::PanelHeads, kind.of(c.hidden),
                        1 / std::sqrt(float(c.hidden)), c.headDim),
             norm = norms(c.hidden);

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
      auto go = [&](const std::vector<std::vector<Token>> &steps, int workers,
                    bool prepared = false, bool fused = false) {
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
          Bytes q(T * c.heads * cache.queryRow().bytes(), std::byte(0xff));
          Bytes o(T * attentionSpec.outputBytes(), std::byte(0xff));
          std::vector<Buffer> operands{positions,   sequences, blocks, hs,
                                       norm.packed, w.packed,  q,      {pages, size_t(before)}};
          if (c.rope) {
            run(rope, {positions, table}, T, 0, stride, workers);
            operands.push_back(table);
          }
          Bytes rows(T * ActivationRow{normSpec.shared, c.hidden}.bytes());
          if (prepared) {
            run(prepare, {hs, norm.packed, rows}, T, 0, stride, workers);
            operands[3] = rows;
          }
          if (fused) {
            Ints counters(c.kvHeads);
            operands.insert(operands.end(), {o, counters});
            run(both, operands, T, 0, stride, workers);
            EXPECT_EQ(counters, Ints(c.kvHeads));
          } else {
            run(prepared ? projectPrepared : project, operands, T, 0, stride, workers);
            run(attend, {positions, sequences, blocks, q, {pages, size_t(before)}, o}, T, 0, stride,
                workers);
          }
          const ActivationRow row{attentionSpec.output, out};
          Floats got = attentionSpec.outputsFloats() ? valuesOf(o, T, out, Storage::F32)
                                                     : valuesOf(o, T, row);
          for (int64_t i = 0; i < T; ++i)
            std::copy_n(&got[i * out], out,
                        &result[index[{step[i].sequence, step[i].position}] * out]);
          // Padding feeds the output projection.
          for (int64_t i = out; !row.quantized() && i < padded(out); ++i)
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
                 reference::attentionBlock(oracle, reference::qkv(h, norm.values, w.values, kEps),
                                           positions, sequences, options),
                 2);
      EXPECT_EQ(go({all}, 3), whole);
      EXPECT_EQ(go({all}, 2, true), whole);
      for (int workers : {1, 2, 5})
        EXPECT_EQ(go({all}, workers, false, true), whole);

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
      EXPECT_EQ(go(single, 1, false, true), whole);
    }
}

const Kind kF32{"f32", Storage::F32}, kBf16{"bf16", Storage::BF16},
    kInt8{"int8", Storage::I8, -1, Storage::F32},
    kInt4{"int4_g128", Storage::I4, 128, Storage::F16},
    kInt4Zeros{"int4_g32_z", Storage::I4, 32, Storage::BF16, true},
    kFp8{"fp8", Storage::F8E4M3, 32, Storage::F32};

std::string nameOfCase(const testing::TestParamInfo<std::tuple<std::string, Kind>> &info) {
  std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param).name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Targets, Products,
                         testing::Combine(testing::Values("x86-64-v4", "x86-64-v3", "aarch64"),
                                          testing::Values(kF32, kBf16, kInt8, kInt4, kInt4Zeros,
                                                          kFp8)),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Targets, Kernels,
                         testing::Combine(testing::Values("x86-64-v4", "x86-64-v3", "aarch64"),
                                          testing::Values(kF32, kBf16, kInt4Zeros)),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Codes, Kernels,
                         testing::Combine(testing::Values("x86-64-v4", "aarch64"),
                                          testing::Values(kInt4, kFp8)),
                         nameOfCase);

} // namespace
