// Runs the kernels that the compiler chooses for Scout and Maverick at the shapes of these models,
// with the grids of an H100, against plain loops in double precision.
//
// Small steps and what is cheap run whole. Of larger grids the simulator runs a random sample of
// the blocks, with all else as it is: the grid's dimensions, K, and the strides and sizes of all
// operands, which go beyond 2^32 bytes. Then what those blocks wrote is compared, and there must be
// as much of it as their pieces of work have. Weights exist only where they are read.
#include "compiler/kernels/attention/TestAttention.h"
#include "compiler/kernels/embed/Embed.h"
#include "compiler/kernels/head/Head.h"
#include "compiler/kernels/linear/Linear.h"
#include "compiler/kernels/norm/Norm.h"
#include "compiler/kernels/rope_table/RopeTable.h"
#include "compiler/kernels/router/Router.h"
#include "compiler/kernels/sample/Sample.h"
#include "compiler/targets/cuda/TestShapes.h"
#include "runtime/session/Sampler.h"

namespace moe::codegen {

namespace {

using cuda::RowSampling;

class Shapes : public ShapesTest {
protected:
  // Calls the check of the call's contract; false where it is none of these.
  template <class... Contracts> bool checkAnyOf(const ModelCall &call) {
    auto checkIf = [&](const auto *contract) {
      if (contract)
        check(call, *contract);
      return contract != nullptr;
    };
    return (checkIf(call.kernel.as<Contracts>()) || ...);
  }

  void check(const ModelCall &call, const Embed &s);
  void check(const ModelCall &call, const RopeTable &s);
  void check(const ModelCall &call, const CudaNorm &s);
  void check(const ModelCall &call, const CudaRouter &s);
  void check(const ModelCall &call, const CudaSmallQkv &s);
  void check(const ModelCall &call, const CudaFinish &s) {} // with the kernel of attention
  void check(const ModelCall &call, const CudaFusedAttention &s);
  void check(const ModelCall &call, const CudaTiledAttention &s);
  void check(const ModelCall &call, const CudaTiledLinear &s);
  void check(const ModelCall &call, const CudaSample &s);

  // Kernels of small and of larger steps, which do the same.
  void check(const ModelCall &call, const CudaSmallLinearResidual &s) { checkLinear(call, s); }
  void check(const ModelCall &call, const CudaTiledLinearResidual &s) { checkLinear(call, s); }
  void check(const ModelCall &call, const CudaSmallGateUp &s) { checkGateUp(call, s); }
  void check(const ModelCall &call, const CudaTiledGateUp &s) { checkGateUp(call, s); }
  void check(const ModelCall &call, const CudaSmallDown &s) { checkDown(call, s); }
  void check(const ModelCall &call, const CudaTiledDown &s) { checkDown(call, s); }
  void check(const ModelCall &call, const CudaSmallHead &s) { checkHead(call, s); }
  void check(const ModelCall &call, const CudaTiledHead &s) { checkHead(call, s); }
  template <class LinearResidual> void checkLinear(const ModelCall &call, const LinearResidual &s);
  template <class GateUp> void checkGateUp(const ModelCall &call, const GateUp &s);
  template <class Down> void checkDown(const ModelCall &call, const Down &s);
  template <class Head> void checkHead(const ModelCall &call, const Head &s);

  World worldOf(const FinishSpec &finish);
};

//===----------------------------------------------------------------------===//
// Begin and end of a step
//===----------------------------------------------------------------------===//

void Shapes::check(const ModelCall &call, const Embed &s) {
  LargeWeight table = weight(s.format, 1, kVocabulary, s.hidden, WeightLayout::Kind::Rows);
  Ints ids{int32_t(kVocabulary - 1)};
  while (int64_t(ids.size()) < T)
    ids.push_back(generator() % kVocabulary);
  PtxArgument h = made(s, Operand::H);
  run(call, {{Operand::Tokens, bench.put(ids)}, {Operand::Embedding, put(table)}, h});
  Floats want;
  for (int32_t id : ids) {
    Floats row = table.row(0, id);
    want.insert(want.end(), row.begin(), row.end());
  }
  EXPECT_EQ(bench.get<float>(h.address, T * s.hidden), want);
}

void Shapes::check(const ModelCall &call, const RopeTable &s) {
  const int64_t pairs = s.frequencies.size();
  Ints positions;
  for (int64_t t = 0; t < T; ++t)
    positions.push_back(generator() % (1 << 20));
  PtxArgument table = made(s, Operand::RopeTable);
  run(call, {{Operand::Positions, bench.put(positions)}, table});
  Floats got = bench.get<float>(table.address, T * 2 * pairs);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t j = 0; j < pairs; ++j) {
      const double angle = float(positions[t]) * s.frequencies[j];
      ASSERT_NEAR(got[(t * pairs + j) * 2], std::cos(angle), 2e-7);
      ASSERT_NEAR(got[(t * pairs + j) * 2 + 1], std::sin(angle), 2e-7);
    }
}

template <class Head> void Shapes::checkHead(const ModelCall &call, const Head &s) {
  constexpr bool small = std::is_same_v<Head, CudaSmallHead>;
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
  std::vector<uint32_t> counts(s.bytes(Operand::Counters, {T, T}) / 4);
  counts[0] = running ? gridOf(call) - running : 0;
  uint64_t logits = bench.put(before), ids = bench.room(T * 4);
  PtxArgument counters{Operand::Counters, bench.put(counts)};
  std::vector<PtxArgument> arguments{{Operand::Sampling, bench.put(sampling)},
                                     {Operand::Weight, put(w)},
                                     {Operand::Logits, logits},
                                     {Operand::Ids, ids},
                                     counters};
  if (small)
    arguments.insert(arguments.end(), {{Operand::Rows, bench.put(rows)},
                                       {Operand::H, bench.put(h)},
                                       {Operand::Norm, bench.put(norm)}});
  else
    arguments.push_back({Operand::X, bench.put(halves(x))});
  const int64_t pieceRows = small ? kStripRows : 128;
  const int64_t done =
      run(call, arguments,
          llvm::divideCeil(s.vocabulary, pieceRows) * tilesOf(tileOf(call, s, s.format)));
  Floats got = bench.get<float>(logits, before.size());
  Product product{w, x, s.hidden, {}};
  expectWritten(got, before, s.vocabulary, done * pieceRows, 0, small ? kNormedError : kSumError,
                [&](int64_t t, int64_t token) { return product(t, 0, token); });
  if (HasFailure())
    return;
  expectZeros(counters, s);
  Ints best(T, kNothingToChoose); // of what the sample has of a row
  for (int64_t t = 0; t < T; ++t)
    for (int64_t i = 0; i < s.vocabulary; ++i) {
      const float *row = &got[t * s.vocabulary];
      if (row[i] != kBefore && (best[t] < 0 || row[i] > row[best[t]]))
        best[t] = i;
    }
  EXPECT_EQ(bench.get<int32_t>(ids, T), best);
}

// The token is the one that the host takes; every second pair of rows has a mask.
void Shapes::check(const ModelCall &call, const CudaSample &s) {
  Floats logits = normal(T * s.vocabulary, 3);
  std::vector<RowSampling> sampling;
  std::vector<uint32_t> masks(size_t(T * s.maskWords()));
  std::mt19937 random(9);
  for (uint32_t &word : masks)
    word = random() & random();
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
    const bool masked = t % 4 > 1;
    if (masked)
      ASSERT_TRUE(host->setMask(
          std::span(masks).subspan(size_t(t * s.maskWords()), size_t(s.maskWords()))));
    Draw d = *device->draw();
    sampling.push_back({RowSampling::draws | RowSampling::writesLogits |
                            (masked ? uint32_t(RowSampling::masked) : 0u),
                        d.scale, d.random, d.topP, d.minWeight, d.topK, int32_t(t)});
    auto row = std::span<const float>(logits).subspan(t * s.vocabulary, s.vocabulary);
    want.push_back(*host->sample(row));
    largest.push_back(std::max_element(row.begin(), row.end()) - row.begin());
  }
  uint64_t ids = bench.put(largest);
  PtxArgument counters = made(s, Operand::Counters);
  run(call, {{Operand::Sampling, bench.put(sampling)},
             {Operand::Masks, bench.put(masks)},
             {Operand::Logits, bench.put(logits)},
             {Operand::Ids, ids},
             made(s, Operand::Partials),
             counters});
  EXPECT_EQ(bench.get<int32_t>(ids, T), want);
  expectZeros(counters, s);
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

void Shapes::check(const ModelCall &call, const CudaSmallQkv &s) {
  LargeWeight w = weight(s.format, 1, s.rows, s.hidden);
  Floats h = normal(T * s.hidden), norm = normal(s.hidden), x = toHalves(normed(h, norm));
  PtxArgument sums = made(s, Operand::Sums);
  run(call, {{Operand::H, bench.put(h)},
             {Operand::Norm, bench.put(norm)},
             {Operand::Weight, put(w)},
             sums});
  Floats got(T * s.rows), parts = bench.get<float>(sums.address, s.splits * got.size());
  for (size_t i = 0; i < parts.size(); ++i)
    got[i % got.size()] += parts[i];
  Product product{w, x, s.hidden, {}};
  expectWritten(got, Floats(got.size(), kBefore), s.rows, 0, 0, kNormedError,
                [&](int64_t t, int64_t row) { return product(t, 0, row); });
}

// Sequences that end before, at and after borders of pages and chunks, some of them long.
World Shapes::worldOf(const FinishSpec &finish) {
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
  return World(finish, lengths, tokens, kPagesOfSequence, kCacheBytes / finish.cache.pageBytes);
}

void Shapes::check(const ModelCall &call, const CudaFusedAttention &s) {
  World world = worldOf(s.finish);
  runFused(world, s, kernelOf(call), gridOf(call), T);
}

void Shapes::check(const ModelCall &call, const CudaTiledAttention &s) {
  World world = worldOf(s.finish);
  const auto &calls = callsOf(c);
  auto finish = llvm::find_if(calls, [&](const ModelCall &other) {
    auto *f = other.kernel.as<CudaFinish>();
    return f && f->finish.cache.chunk == s.finish.cache.chunk;
  });
  ASSERT_NE(finish, calls.end());
  runTiled(world, kernelOf(*finish), gridOf(*finish), kernelOf(call), gridOf(call), T);
}

//===----------------------------------------------------------------------===//
// Norms, the router and products
//===----------------------------------------------------------------------===//

void Shapes::check(const ModelCall &call, const CudaNorm &s) {
  Floats h = normal(T * s.hidden, 3), norm = normal(s.hidden), want = normed(h, norm);
  PtxArgument x = made(s, Operand::X);
  std::vector<PtxArgument> arguments{
      {Operand::H, bench.put(h)}, {Operand::Norm, bench.put(norm)}, x};
  if (s.gather) {
    Ints rows(T);
    for (int64_t t = 0; t < T; ++t)
      rows[t] = T - 1 - t;
    arguments.push_back({Operand::Rows, bench.put(rows)});
    want = reference::selectRows(want, rows, s.hidden);
  }
  run(call, arguments);
  expectWritten(floats(bench.get<uint16_t>(x.address, T * s.hidden)), Floats(T * s.hidden, kBefore),
                s.hidden, 0, kHalf, 1e-6,
                [&](int64_t t, int64_t i) { return want[t * s.hidden + i]; });
}

void Shapes::check(const ModelCall &call, const CudaRouter &s) {
  Floats h = normal(T * s.hidden), norm = normal(s.hidden), x = normed(h, norm);
  Ints chosen = chooseExperts(s.experts);
  Floats router = routerFor(x, chosen, s.experts, s.hidden);
  PtxArgument rows = made(s, Operand::X), experts = made(s, Operand::Experts),
              scores = made(s, Operand::Scores), order = made(s, Operand::Order),
              offsets = made(s, Operand::Offsets), counters = made(s, Operand::Counters);
  run(call, {{Operand::H, bench.put(h)},
             {Operand::Norm, bench.put(norm)},
             {Operand::Router, bench.put(router)},
             rows,
             experts,
             scores,
             order,
             offsets,
             counters});
  expectWritten(floats(bench.get<uint16_t>(rows.address, T * s.hidden)),
                Floats(T * s.hidden, kBefore), s.hidden, 0, kHalf, 1e-6,
                [&](int64_t t, int64_t i) { return x[t * s.hidden + i]; });
  Groups groups = groupsOf(chosen, s.experts);
  EXPECT_EQ(bench.get<int32_t>(experts.address, T), chosen);
  EXPECT_EQ(bench.get<int32_t>(order.address, T), groups.order);
  EXPECT_EQ(bench.get<int32_t>(offsets.address, s.experts + 1), groups.offsets);
  expectZeros(counters, s);
  Floats got = bench.get<float>(scores.address, T);
  for (int64_t t = 0; t < T; ++t) {
    double logit = dot(&x[t * s.hidden], &router[chosen[t] * s.hidden], s.hidden);
    EXPECT_NEAR(got[t], 1 / (1 + std::exp(-logit)), 1e-5) << "token " << t;
  }
}

void Shapes::check(const ModelCall &call, const CudaTiledLinear &s) {
  LargeWeight w = weight(s.format, 1, s.outputs, s.inputs);
  Floats x = rounded(T * s.inputs), before(T * s.outputs, kBefore);
  uint64_t sums = bench.put(before);
  const int64_t done = run(
      call, {{Operand::X, bench.put(halves(x))}, {Operand::Weight, put(w)}, {Operand::Sums, sums}},
      llvm::divideCeil(s.outputs, 128) * tilesOf(tileOf(call, s, s.format)));
  Product product{w, x, s.inputs, {}};
  expectWritten(bench.get<float>(sums, before.size()), before, s.outputs, done * 128, 0, kSumError,
                [&](int64_t t, int64_t row) { return product(t, 0, row); });
}

template <class LinearResidual>
void Shapes::checkLinear(const ModelCall &call, const LinearResidual &s) {
  constexpr bool small = std::is_same_v<LinearResidual, CudaSmallLinearResidual>;
  LargeWeight w = weight(s.format, 1, s.outputs, s.inputs);
  Floats x = rounded(T * s.inputs), before = normal(T * s.outputs);
  uint64_t h = bench.put(before);
  std::vector<PtxArgument> arguments{
      {Operand::X, bench.put(halves(x))}, {Operand::Weight, put(w)}, {Operand::H, h}};
  if constexpr (small)
    arguments.insert(arguments.end(), {made(s, Operand::Partials), made(s, Operand::Counters)});
  const int64_t done =
      run(call, arguments, llvm::divideCeil(s.outputs, 128) * tilesOf(tileOf(call, s, s.format)));
  Product product{w, x, s.inputs, {}};
  expectWritten(
      bench.get<float>(h, before.size()), before, s.outputs, done * 128, 0, kSumError,
      [&](int64_t t, int64_t row) { return before[t * s.outputs + row] + product(t, 0, row); });
  if constexpr (small)
    expectZeros(arguments.back(), s);
}

template <class GateUp> void Shapes::checkGateUp(const ModelCall &call, const GateUp &s) {
  constexpr bool small = std::is_same_v<GateUp, CudaSmallGateUp>;
  const bool routes = s.experts;
  LargeWeight shared =
                  weight(s.shared, 1, 2 * s.width, s.hidden, WeightLayout::Kind::FragmentsGateUp),
              routed = weight(s.routed, std::max<int64_t>(s.experts, 1), 2 * s.width, s.hidden,
                              WeightLayout::Kind::FragmentsGateUp);
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
  uint64_t hidden = bench.put(halves(before));
  std::vector<PtxArgument> arguments{{Operand::SharedWeight, put(shared)},
                                     {Operand::Hidden, hidden}};
  if (routes)
    arguments.push_back({Operand::RoutedWeight, put(routed)});
  PtxArgument experts{}, counters{};
  if constexpr (small) {
    arguments.insert(arguments.end(),
                     {{Operand::H, bench.put(h)}, {Operand::Norm, bench.put(norm)}});
    if (routes) {
      experts = made(s, Operand::Experts);
      counters = made(s, Operand::Counters);
      arguments.insert(arguments.end(), {{Operand::Router, bench.put(router)},
                                         experts,
                                         made(s, Operand::ExpertLogits),
                                         counters});
    }
  } else {
    arguments.push_back({Operand::X, bench.put(halves(x))});
    if (routes)
      arguments.insert(arguments.end(), {{Operand::Scores, bench.put(scores)},
                                         {Operand::Order, bench.put(groups.order)},
                                         {Operand::Offsets, bench.put(groups.offsets)}});
  }
  const int64_t tile = tileOf(call, s, s.shared);
  const int64_t done =
      run(call, arguments,
          llvm::divideCeil(s.width, 64) * (tilesOf(tile) + (routes ? tilesOf(groups, tile) : 0)));

  Product ofShared{shared, x, s.hidden, {}}, ofRouted{routed, x, s.hidden, {}};
  expectWritten(floats(bench.get<uint16_t>(hidden, before.size())), before, s.width, done * 64,
                kHalf, small ? 2 * kNormedError : kSumError, [&](int64_t row, int64_t channel) {
                  const int64_t t = row % T, matrix = row < T ? 0 : chosen[t];
                  const double score = row < T ? 1 : scores[t];
                  Product &product = row < T ? ofShared : ofRouted;
                  const double gate = score * product(t, matrix, channel),
                               up = score * product(t, matrix, s.width + channel);
                  return gate / (1 + std::exp(-gate)) * up;
                });
  if (small && routes) {
    expectZeros(counters, s);
    EXPECT_EQ(bench.get<int32_t>(experts.address, T), chosen);
  }
}

template <class Down> void Shapes::checkDown(const ModelCall &call, const Down &s) {
  constexpr bool small = std::is_same_v<Down, CudaSmallDown>;
  const bool routes = s.experts;
  LargeWeight shared = weight(s.shared, 1, s.hidden, s.width),
              routed = weight(s.routed, std::max<int64_t>(s.experts, 1), s.hidden, s.width);
  Ints chosen = routes ? chooseExperts(s.experts) : Ints(T);
  Groups groups = groupsOf(chosen, std::max<int64_t>(s.experts, 1));
  Floats x = rounded((routes ? 2 : 1) * T * s.width), before = normal(T * s.hidden);
  uint64_t h = bench.put(before);
  std::vector<PtxArgument> arguments{{Operand::Hidden, bench.put(halves(x))},
                                     {Operand::SharedWeight, put(shared)},
                                     {Operand::H, h}};
  if (routes)
    arguments.push_back({Operand::RoutedWeight, put(routed)});
  if (small && routes)
    arguments.push_back({Operand::Experts, bench.put(chosen)});
  else if (routes)
    arguments.insert(arguments.end(), {{Operand::Order, bench.put(groups.order)},
                                       {Operand::Offsets, bench.put(groups.offsets)}});
  if constexpr (small)
    arguments.insert(arguments.end(), {made(s, Operand::Partials), made(s, Operand::Counters)});
  const int64_t tile = tileOf(call, s, s.shared);
  const int64_t done =
      run(call, arguments,
          llvm::divideCeil(s.hidden, 128) * (routes ? tilesOf(groups, tile) : tilesOf(tile)));
  Product ofShared{shared, x, s.width, {}}, ofRouted{routed, x, s.width, {}};
  expectWritten(bench.get<float>(h, before.size()), before, s.hidden, done * 128, 0, 2 * kSumError,
                [&](int64_t t, int64_t row) {
                  return before[t * s.hidden + row] + ofShared(t, 0, row) +
                         (routes ? ofRouted(T + t, chosen[t], row) : 0);
                });
  if constexpr (small)
    expectZeros(arguments.back(), s);
}

//===----------------------------------------------------------------------===//
// Cases
//===----------------------------------------------------------------------===//

TEST_P(Shapes, MatchTheReference) {
  int64_t calls = 0;
  for (const ModelCall &call : callsOf(c))
    if (isOf(c, call)) {
      SCOPED_TRACE(call.kernel.name);
      bool checked = checkAnyOf<Embed, RopeTable, CudaNorm, CudaRouter, CudaSmallQkv, CudaFinish,
                                CudaFusedAttention, CudaTiledAttention, CudaTiledLinear,
                                CudaSmallLinearResidual, CudaTiledLinearResidual, CudaSmallGateUp,
                                CudaTiledGateUp, CudaSmallDown, CudaTiledDown, CudaSmallHead,
                                CudaTiledHead, CudaSample>(call);
      EXPECT_TRUE(checked) << "a kernel without a check";
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
      const bool withAttention =
          call.kernel.as<CudaFinish>() && llvm::StringRef(c.kernel) == "attention";
      if (isOf(c, call) || withAttention)
        covered.insert(call.kernel.name);
    }
  for (const char *model : {"scout", "maverick"})
    for (const char *weights : {"bf16", "int4"})
      for (int64_t tokens : {1, 8, 64, 256})
        for (const ModelCall &call : callsOf({model, weights, "sm_90a", tokens, ""}))
          EXPECT_TRUE(covered.count(call.kernel.name)) << call.kernel.name;
}

// Steps of one token run the kernels of eight, and those of 256 take most of the time; Maverick's
// kernels of experts are Scout's with more experts. Each change is tested with 8 and 64 tokens, of
// Maverick in one format each, and with the kernels that those do not run.
bool isAlways(const ShapeCase &c) {
  const llvm::StringRef kernel = c.kernel;
  if (llvm::StringRef(c.model) == "maverick" && (kernel == "gate_up" || kernel == "down"))
    return llvm::StringRef(c.weights) == (c.tokens == 8 ? "bf16" : "int4") &&
           (c.tokens == 8 || c.tokens == 64);
  static const std::set<std::string> names = [] {
    std::set<std::string> run;
    for (const ShapeCase &other : cases())
      for (const ModelCall &call : callsOf(other))
        if ((other.tokens == 8 || other.tokens == 64) && isOf(other, call))
          run.insert(call.kernel.name + " " + other.chip);
    return run;
  }();
  return c.tokens == 8 || c.tokens == 64 || llvm::any_of(callsOf(c), [&](const ModelCall &call) {
           return isOf(c, call) && !names.count(call.kernel.name + " " + c.chip);
         });
}
std::vector<ShapeCase> chosen(bool always) {
  std::vector<ShapeCase> some = cases();
  llvm::erase_if(some, [&](const ShapeCase &c) { return isAlways(c) != always; });
  return some;
}

INSTANTIATE_TEST_SUITE_P(All, Shapes, testing::ValuesIn(chosen(true)),
                         [](const auto &info) { return textOf(info.param); });
INSTANTIATE_TEST_SUITE_P(Long, Shapes, testing::ValuesIn(chosen(false)),
                         [](const auto &info) { return textOf(info.param); });

} // namespace

} // namespace moe::codegen
