// Runs the kernels that the compiler chooses for Scout and Maverick at the shapes of these models,
// with the grids of an H100, against plain loops in double precision.
//
// Small steps and what is cheap run whole. Of larger grids the simulator runs a random sample of
// the blocks, with all else as it is: the grid's dimensions, K, and the strides and sizes of all
// operands, which go beyond 2^32 bytes. Then what those blocks wrote is compared, and there must be
// as much of it as their pieces of work have. Weights exist only where they are read.
#include "compiler/kernels/attention/TestAttention.h"
#include "compiler/targets/cuda/TestShapes.h"
#include "runtime/session/Sampler.h"

using namespace moe;
using namespace moe::codegen;

namespace {

using cuda::RowSampling;

class Shapes : public ShapesTest {
protected:
  void check(const ModelCall &call, const EmbedSpec &s);
  void check(const ModelCall &call, const RopeTableSpec &s);
  void check(const ModelCall &call, const CudaQkvSpec &s);
  void check(const ModelCall &call, const CudaAttentionSpec &s);
  void check(const ModelCall &call, const FinishSpec &s) {} // with the kernel of attention
  void check(const ModelCall &call, const LinearSpec &s);
  void check(const ModelCall &call, const LinearResidualSpec &s);
  void check(const ModelCall &call, const GateUpSpec &s);
  void check(const ModelCall &call, const DownSpec &s);
  void check(const ModelCall &call, const HeadSpec &s);
  void check(const ModelCall &call, const NormSpec &s);
  void check(const ModelCall &call, const RouterSpec &s);
  void check(const ModelCall &call, const SampleSpec &s);
};

//===----------------------------------------------------------------------===//
// Begin and end of a step
//===----------------------------------------------------------------------===//

void Shapes::check(const ModelCall &call, const EmbedSpec &s) {
  LargeWeight table = weight(s.format, 1, kVocabulary, s.hidden, Layout::Rows);
  Ints ids{int32_t(kVocabulary - 1)};
  while (int64_t(ids.size()) < T)
    ids.push_back(generator() % kVocabulary);
  uint64_t h = bench.room(T * s.hidden * 4);
  run(call, {bench.put(ids), put(table), h});
  Floats want;
  for (int32_t id : ids) {
    Floats row = table.row(0, id);
    want.insert(want.end(), row.begin(), row.end());
  }
  EXPECT_EQ(bench.get<float>(h, T * s.hidden), want);
}

void Shapes::check(const ModelCall &call, const RopeTableSpec &s) {
  const int64_t pairs = s.frequencies.size();
  Ints positions;
  for (int64_t t = 0; t < T; ++t)
    positions.push_back(generator() % (1 << 20));
  uint64_t table = bench.room(T * 2 * pairs * 4);
  run(call, {bench.put(positions), table});
  Floats got = bench.get<float>(table, T * 2 * pairs);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t j = 0; j < pairs; ++j) {
      const double angle = float(positions[t]) * s.frequencies[j];
      ASSERT_NEAR(got[(t * pairs + j) * 2], std::cos(angle), 2e-7);
      ASSERT_NEAR(got[(t * pairs + j) * 2 + 1], std::sin(angle), 2e-7);
    }
}

void Shapes::check(const ModelCall &call, const HeadSpec &s) {
  LargeWeight w = weight(s.format, 1, s.vocabulary, s.hidden);
  Floats h = normal(T * s.hidden), norm = normal(s.hidden), x = toHalves(normed(h, norm));
  std::vector<RowSampling> sampling(T);
  for (RowSampling &row : sampling)
    row.flags = RowSampling::writesLogits;
  Ints rows(T);
  std::iota(rows.begin(), rows.end(), 0);
  const Floats before(T * s.vocabulary, kBefore);
  // Blocks that do not run count as if they had ended.
  const size_t running = sampleOf(gridOf(call)).size();
  std::vector<uint32_t> counters(counterBytes(call.spec, T) / 4);
  counters[0] = running ? gridOf(call) - running : 0;
  uint64_t logits = bench.put(before), ids = bench.room(T * 4);
  std::vector<uint64_t> operands{bench.put(sampling), put(w), logits, ids, bench.put(counters)};
  if (call.spec.small()) {
    operands.insert(operands.begin(), bench.put(rows));
    operands.insert(operands.begin() + 2, {bench.put(h), bench.put(norm)});
  } else {
    operands.insert(operands.begin(), bench.put(halves(x)));
  }
  const int64_t pieceRows = call.spec.small() ? 16 : 128;
  const int64_t done = run(
      call, operands, llvm::divideCeil(s.vocabulary, pieceRows) * tilesOf(tileOf(call, s.format)));
  Floats got = bench.get<float>(logits, before.size());
  Product product{w, x, s.hidden, {}};
  expectWritten(got, before, s.vocabulary, done * pieceRows, 0, call.spec.small() ? kNormed : kSum,
                [&](int64_t t, int64_t token) { return product(t, 0, token); });
  if (HasFailure())
    return;
  expectZeros(operands.back(), counters.size() * 4);
  Ints best(T, kNothingToChoose); // of what the sample has of a row
  for (int64_t t = 0; t < T; ++t)
    for (int64_t i = 0; i < s.vocabulary; ++i) {
      const float *row = &got[t * s.vocabulary];
      if (row[i] != kBefore && (best[t] < 0 || row[i] > row[best[t]]))
        best[t] = i;
    }
  EXPECT_EQ(bench.get<int32_t>(ids, T), best);
}

// The token is the one that the host takes.
void Shapes::check(const ModelCall &call, const SampleSpec &s) {
  Floats logits = normal(T * s.vocabulary, 3);
  std::vector<RowSampling> sampling;
  Ints largest, want;
  for (int64_t t = 0; t < T; ++t) {
    SamplerOptions options;
    options.temperature = 0.7;
    options.topK = t % 2 ? 40 : 0;
    options.topP = t % 4 < 2 ? 0.9 : 1;
    options.minP = t % 3 ? 0 : 0.01;
    options.seed = t;
    auto device = Sampler::create(options, s.vocabulary),
         host = Sampler::create(options, s.vocabulary);
    ASSERT_TRUE(device && host);
    Draw d = *device->draw();
    sampling.push_back({RowSampling::draws | RowSampling::writesLogits, d.scale, d.random, d.topP,
                        d.minWeight, d.topK, 0});
    auto row = std::span<const float>(logits).subspan(t * s.vocabulary, s.vocabulary);
    want.push_back(*host->sample(row));
    largest.push_back(std::max_element(row.begin(), row.end()) - row.begin());
  }
  uint64_t ids = bench.put(largest), counters = zeros(counterBytes(call.spec, T));
  run(call, {bench.put(sampling), bench.put(logits), ids, bench.room(partialBytes(call.spec, T)),
             counters});
  EXPECT_EQ(bench.get<int32_t>(ids, T), want);
  expectZeros(counters, counterBytes(call.spec, T));
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

void Shapes::check(const ModelCall &call, const CudaQkvSpec &s) {
  LargeWeight w = weight(s.format, 1, s.rows, s.hidden);
  Floats h = normal(T * s.hidden), norm = normal(s.hidden), x = toHalves(normed(h, norm));
  uint64_t sums = bench.room(call.spec.splits * T * s.rows * 4);
  run(call, {bench.put(h), bench.put(norm), put(w), sums});
  Floats got(T * s.rows), parts = bench.get<float>(sums, call.spec.splits * got.size());
  for (size_t i = 0; i < parts.size(); ++i)
    got[i % got.size()] += parts[i];
  Product product{w, x, s.hidden, {}};
  expectWritten(got, Floats(got.size(), kBefore), s.rows, 0, 0, kNormed,
                [&](int64_t t, int64_t row) { return product(t, 0, row); });
}

// Of sequences that end before, at and after borders of pages and chunks, some of them long.
void Shapes::check(const ModelCall &call, const CudaAttentionSpec &s) {
  Ints lengths, tokens;
  auto add = [&](int32_t length, int32_t count) {
    tokens.insert(tokens.end(), count, int32_t(lengths.size()));
    lengths.push_back(length);
  };
  if (T == 1) {
    add(9000, 1);
  } else if (T == 256) {
    add(0, 140);
    add(700, 100);
    add(8190, 4);
  }
  while (int64_t(tokens.size()) < T) // 8 and 64 tokens, and the rest
    add(lengths.empty() ? 9000 : generator() % 600, 1);
  World world(s.finish, lengths, tokens, kPagesOfSequence, kCacheBytes / s.finish.cache.pageBytes);
  if (call.spec.small())
    return void(runFused(world, call.spec, kernelOf(call), gridOf(call), T));
  const auto &calls = callsOf(c);
  auto finish = llvm::find_if(calls, [&](const ModelCall &other) {
    auto *f = std::get_if<FinishSpec>(&other.spec.op);
    return f && f->cache.chunk == s.finish.cache.chunk;
  });
  ASSERT_NE(finish, calls.end());
  runTiled(world, kernelOf(*finish), gridOf(*finish), kernelOf(call), gridOf(call), T);
}

//===----------------------------------------------------------------------===//
// Norms, the router and products
//===----------------------------------------------------------------------===//

void Shapes::check(const ModelCall &call, const NormSpec &s) {
  Floats h = normal(T * s.hidden, 3), norm = normal(s.hidden), want = normed(h, norm);
  uint64_t x = bench.room(T * s.hidden * 2);
  std::vector<uint64_t> operands{bench.put(h), bench.put(norm), x};
  if (s.gather) {
    Ints rows(T);
    for (int64_t t = 0; t < T; ++t)
      rows[t] = T - 1 - t;
    operands.insert(operands.begin(), bench.put(rows));
    want = reference::selectRows(want, rows, s.hidden);
  }
  run(call, operands);
  expectWritten(floats(bench.get<uint16_t>(x, T * s.hidden)), Floats(T * s.hidden, kBefore),
                s.hidden, 0, kHalf, 1e-6,
                [&](int64_t t, int64_t i) { return want[t * s.hidden + i]; });
}

void Shapes::check(const ModelCall &call, const RouterSpec &s) {
  Floats h = normal(T * s.hidden), norm = normal(s.hidden), x = normed(h, norm);
  Ints chosen = chooseExperts(s.experts);
  Floats router = routerFor(x, chosen, s.experts, s.hidden);
  uint64_t rows = bench.room(T * s.hidden * 2), experts = bench.room(T * 4),
           scores = bench.room(T * 4), order = bench.room(T * 4),
           offsets = bench.room((s.experts + 1) * 4), counter = zeros(4);
  run(call, {bench.put(h), bench.put(norm), bench.put(router), rows, experts, scores, order,
             offsets, counter});
  expectWritten(floats(bench.get<uint16_t>(rows, T * s.hidden)), Floats(T * s.hidden, kBefore),
                s.hidden, 0, kHalf, 1e-6,
                [&](int64_t t, int64_t i) { return x[t * s.hidden + i]; });
  Groups groups = groupsOf(chosen, s.experts);
  EXPECT_EQ(bench.get<int32_t>(experts, T), chosen);
  EXPECT_EQ(bench.get<int32_t>(order, T), groups.order);
  EXPECT_EQ(bench.get<int32_t>(offsets, s.experts + 1), groups.offsets);
  expectZeros(counter, 4);
  Floats got = bench.get<float>(scores, T);
  for (int64_t t = 0; t < T; ++t) {
    double logit = dot(&x[t * s.hidden], &router[chosen[t] * s.hidden], s.hidden);
    EXPECT_NEAR(got[t], 1 / (1 + std::exp(-logit)), 1e-5) << "token " << t;
  }
}

void Shapes::check(const ModelCall &call, const LinearSpec &s) {
  LargeWeight w = weight(s.format, 1, s.outputs, s.inputs);
  Floats x = rounded(T * s.inputs), before(T * s.outputs, kBefore);
  uint64_t out = bench.put(before);
  const int64_t done = run(call, {bench.put(halves(x)), put(w), out},
                           llvm::divideCeil(s.outputs, 128) * tilesOf(tileOf(call, s.format)));
  Product product{w, x, s.inputs, {}};
  expectWritten(bench.get<float>(out, before.size()), before, s.outputs, done * 128, 0, kSum,
                [&](int64_t t, int64_t row) { return product(t, 0, row); });
}

void Shapes::check(const ModelCall &call, const LinearResidualSpec &s) {
  LargeWeight w = weight(s.format, 1, s.outputs, s.inputs);
  Floats x = rounded(T * s.inputs), before = normal(T * s.outputs);
  uint64_t h = bench.put(before), counters = zeros(counterBytes(call.spec));
  std::vector<uint64_t> operands{bench.put(halves(x)), put(w), h};
  if (call.spec.small())
    operands.insert(operands.end(), {bench.room(partialBytes(call.spec)), counters});
  const int64_t done =
      run(call, operands, llvm::divideCeil(s.outputs, 128) * tilesOf(tileOf(call, s.format)));
  Product product{w, x, s.inputs, {}};
  expectWritten(
      bench.get<float>(h, before.size()), before, s.outputs, done * 128, 0, kSum,
      [&](int64_t t, int64_t row) { return before[t * s.outputs + row] + product(t, 0, row); });
  expectZeros(counters, counterBytes(call.spec));
}

void Shapes::check(const ModelCall &call, const GateUpSpec &s) {
  const bool routes = s.experts, small = call.spec.small();
  LargeWeight shared = weight(s.shared, 1, 2 * s.width, s.hidden, Layout::FragmentsGateUp),
              routed = weight(s.routed, std::max<int64_t>(s.experts, 1), 2 * s.width, s.hidden,
                              Layout::FragmentsGateUp);
  Floats h = normal(T * s.hidden), norm = normal(s.hidden), exact = normed(h, norm),
         x = toHalves(exact);
  Ints chosen = routes ? chooseExperts(s.experts) : Ints(T);
  Groups groups = groupsOf(chosen, std::max<int64_t>(s.experts, 1));
  Floats router = routerFor(exact, chosen, s.experts, routes ? s.hidden : 0), scores;
  for (int64_t t = 0; t < T && routes; ++t) {
    double logit = dot(&exact[t * s.hidden], &router[chosen[t] * s.hidden], s.hidden);
    scores.push_back(1 / (1 + std::exp(-logit)));
  }

  const int64_t rows = (routes ? 2 : 1) * T;
  const Floats before(rows * s.width, kBefore);
  uint64_t hidden = bench.put(halves(before)), experts = bench.room(T * 4), counters = zeros(8);
  std::vector<uint64_t> operands;
  if (small)
    operands = {bench.put(h), bench.put(norm)};
  else
    operands = {bench.put(halves(x))};
  if (small && routes)
    operands.push_back(bench.put(router));
  if (!small && routes)
    operands.insert(operands.end(),
                    {bench.put(scores), bench.put(groups.order), bench.put(groups.offsets)});
  operands.push_back(put(shared));
  if (routes)
    operands.push_back(put(routed));
  operands.push_back(hidden);
  if (small && routes)
    operands.insert(operands.end(), {experts, bench.room(s.experts * kSmallTokens * 4), counters});
  const int64_t tile = tileOf(call, s.shared);
  const int64_t done =
      run(call, operands,
          llvm::divideCeil(s.width, 64) * (tilesOf(tile) + (routes ? tilesOf(groups, tile) : 0)));

  Product ofShared{shared, x, s.hidden, {}}, ofRouted{routed, x, s.hidden, {}};
  expectWritten(floats(bench.get<uint16_t>(hidden, before.size())), before, s.width, done * 64,
                kHalf, small ? 2 * kNormed : kSum, [&](int64_t row, int64_t channel) {
                  const int64_t t = row % T, matrix = row < T ? 0 : chosen[t];
                  const double score = row < T ? 1 : scores[t];
                  Product &product = row < T ? ofShared : ofRouted;
                  const double gate = score * product(t, matrix, channel),
                               up = score * product(t, matrix, s.width + channel);
                  return gate / (1 + std::exp(-gate)) * up;
                });
  expectZeros(counters, 8);
  if (small && routes)
    EXPECT_EQ(bench.get<int32_t>(experts, T), chosen);
}

void Shapes::check(const ModelCall &call, const DownSpec &s) {
  const bool routes = s.experts, small = call.spec.small();
  LargeWeight shared = weight(s.shared, 1, s.hidden, s.width),
              routed = weight(s.routed, std::max<int64_t>(s.experts, 1), s.hidden, s.width);
  Ints chosen = routes ? chooseExperts(s.experts) : Ints(T);
  Groups groups = groupsOf(chosen, std::max<int64_t>(s.experts, 1));
  Floats x = rounded((routes ? 2 : 1) * T * s.width), before = normal(T * s.hidden);
  uint64_t h = bench.put(before), counters = zeros(counterBytes(call.spec));
  std::vector<uint64_t> operands{bench.put(halves(x))};
  if (routes && small)
    operands.push_back(bench.put(chosen));
  else if (routes)
    operands.insert(operands.end(), {bench.put(groups.order), bench.put(groups.offsets)});
  operands.push_back(put(shared));
  if (routes)
    operands.push_back(put(routed));
  operands.push_back(h);
  if (small)
    operands.insert(operands.end(), {bench.room(partialBytes(call.spec)), counters});
  const int64_t tile = tileOf(call, s.shared);
  const int64_t done =
      run(call, operands,
          llvm::divideCeil(s.hidden, 128) * (routes ? tilesOf(groups, tile) : tilesOf(tile)));
  Product ofShared{shared, x, s.width, {}}, ofRouted{routed, x, s.width, {}};
  expectWritten(bench.get<float>(h, before.size()), before, s.hidden, done * 128, 0, 2 * kSum,
                [&](int64_t t, int64_t row) {
                  return before[t * s.hidden + row] + ofShared(t, 0, row) +
                         (routes ? ofRouted(T + t, chosen[t], row) : 0);
                });
  expectZeros(counters, counterBytes(call.spec));
}

//===----------------------------------------------------------------------===//
// Cases
//===----------------------------------------------------------------------===//

TEST_P(Shapes, MatchTheReference) {
  int64_t calls = 0;
  for (const ModelCall &call : callsOf(c))
    if (isOf(c, call)) {
      SCOPED_TRACE(call.name);
      std::visit([&](const auto &s) { check(call, s); }, call.spec.op);
      ++calls;
    }
  EXPECT_GT(calls, 0);
}

std::vector<ShapeCase> cases() {
  std::vector<ShapeCase> all;
  auto add = [&](const char *model, const char *weights, const char *chip, int64_t tokens,
                 std::initializer_list<const char *> kernels) {
    for (const char *kernel : kernels)
      all.push_back({model, weights, chip, tokens, kernel});
  };
  auto sample = [&](const char *model, const char *weights, const char *chip, int64_t tokens,
                    const char *kernel, int64_t blocks) {
    all.push_back({model, weights, chip, tokens, kernel, blocks});
  };
  for (int64_t tokens : {1, 8}) {
    add("scout", "bf16", "sm_90a", tokens,
        {"embed", "rope_table", "qkv", "attention", "linear_residual", "gate_up", "down",
         "sample"});
    sample("scout", "bf16", "sm_90a", tokens, "head", 4);
    add("maverick", "bf16", "sm_90a", tokens, {"rope_table", "attention", "gate_up", "down"});
    add("scout", "int4", "sm_90a", tokens, {"embed", "qkv", "linear_residual"});
    sample("scout", "int4", "sm_90a", tokens, "head", 4);
    add(tokens == 1 ? "maverick" : "scout", "int4", "sm_90a", tokens, {"gate_up", "down"});
  }
  for (int64_t tokens : {64, 256}) {
    const bool few = tokens == 64;
    add("scout", "bf16", "sm_90a", tokens, {"embed", "rope_table", "norm", "attention", "router"});
    add("maverick", "bf16", "sm_90a", tokens, {"rope_table", "attention", "router"});
    for (const char *weights : {"bf16", "int4"}) {
      for (const char *kernel : {"linear", "gate_up", "down"})
        sample("scout", weights, "sm_90a", tokens, kernel, few ? 12 : 6);
      for (const char *kernel : {"gate_up", "down"})
        sample("maverick", weights, "sm_90a", tokens, kernel, few ? 4 : 2);
      sample("scout", weights, "sm_90a", tokens, "head", few ? 2 : 3);
    }
  }
  add("scout", "bf16", "sm_90a", 64, {"sample"});
  // What an A100 runs otherwise.
  for (const char *kernel : {"qkv", "gate_up", "down"})
    sample("scout", "bf16", "sm_80", 8, kernel, 0);
  for (const char *kernel : {"linear", "gate_up", "down"})
    sample("scout", "bf16", "sm_80", 256, kernel, 3);
  return all;
}

// Each kernel of sm_90a that the compiler chooses for a step of these sizes is among the cases, for
// the one model or the other.
TEST(ShapesCases, AreAllKernels) {
  std::set<std::string> covered;
  for (const ShapeCase &c : cases())
    for (const ModelCall &call : callsOf(c)) {
      const bool withAttention = std::holds_alternative<FinishSpec>(call.spec.op) &&
                                 llvm::StringRef(c.kernel) == "attention";
      if (isOf(c, call) || withAttention)
        covered.insert(call.name);
    }
  for (const char *model : {"scout", "maverick"})
    for (const char *weights : {"bf16", "int4"})
      for (int64_t tokens : {1, 8, 64, 256})
        for (const ModelCall &call : callsOf({model, weights, "sm_90a", tokens, ""}))
          EXPECT_TRUE(covered.count(call.name)) << call.name;
}

INSTANTIATE_TEST_SUITE_P(All, Shapes, testing::ValuesIn(cases()),
                         [](const auto &info) { return textOf(info.param); });

} // namespace
