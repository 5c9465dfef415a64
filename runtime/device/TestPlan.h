// A small plan for tests of devices, and what its steps give. Its inputs and outputs are those of
// Input and Output below. Its kernels: "embed" looks up a
// number per token, "store" puts the token into the cache, "head" adds up the sequence's tokens so
// far, "choose" makes an id of what is wanted of a row. Each device's test brings them, as images
// or in another way; kernel 1, "other", is in none of them.
#ifndef MOE_RUNTIME_DEVICE_TESTPLAN_H
#define MOE_RUNTIME_DEVICE_TESTPLAN_H

#include "runtime/device/Device.h"
#include "runtime/device/RowSampling.h"

#include <algorithm>
#include <gtest/gtest.h>

namespace moe::testplan {

inline constexpr int64_t kVocab = 8, kPageInts = 64; // a page of the pool "global" is 64 int32

struct Bytes {
  alignas(256) float weights[256] = {};
  Bytes() {
    for (int i = 0; i < 8; ++i)
      weights[72 + i] = float(i) - .5f;
  }
};
inline const Bytes bytes;

// Indices into DevicePlan::inputs and outputs.
enum Input : uint32_t { Tokens, Positions, Sequences, Table, Rows, Sampling, Tiles = Sampling };
enum Output : uint32_t { LogitsOut, IdsOut, ImageRowsOut = IdsOut };

// The programs take 1, 4 and 16 tokens and up to 4 rows:
//   embed(tokens, weights float [8], arena float [T])
//   store(tokens, positions, sequences, table, cache)
//   head(positions, sequences, table, cache, arena, rows, logits, counter uint32)
// Row r of the logits is embedding + v * sum of the sequence's tokens + counter, for v < 8.
inline DevicePlan handMadePlan() {
  using K = OperandKind;
  using E = Extent;
  const auto in = [](Input input) { return Operand{K::Input, input}; };
  DevicePlan plan;
  plan.sections = {{}, std::as_bytes(std::span(bytes.weights))};
  plan.pools = {{"chunked", 128, 64, kPageInts * 4 + 64}, {"global", 0, 64, kPageInts * 4}};
  plan.inputs = {{"tokens", ElementType::I32, {{E::Tokens}}},
                 {"positions", ElementType::I32, {{E::Tokens}}},
                 {"sequences", ElementType::I32, {{E::Tokens}}},
                 {"table", ElementType::I32, {{E::Sequences}, {E::Pages}}, 1},
                 {"rows", ElementType::I32, {{E::Rows}}}};
  plan.outputs = {{"logits", ElementType::F32, {{E::Rows}, {E::Constant, kVocab}}}};
  plan.kernels = {{"embed", 3}, {"other", 1}, {"store", 5}, {"head", 8}};
  for (int32_t tokens : {1, 4, 16}) {
    Program program{tokens, std::min(tokens, 4)};
    program.inputs = {Tokens, Positions, Sequences, Table, Rows};
    program.outputs = {LogitsOut};
    program.arenaBytes = 4096;
    program.scratchBytes = 300;
    program.counterBytes = 512;
    program.calls = {
        {0, {in(Tokens), {K::Weight, 1, 288, 32}, {K::Arena, 0, 256, 64}}, 7},
        {2, {in(Tokens), in(Positions), in(Sequences), in(Table), {K::Cache, 1, 0}}, 1000},
        {3,
         {in(Positions),
          in(Sequences),
          in(Table),
          {K::Cache, 1, 0},
          {K::Arena, 0, 256},
          in(Rows),
          {K::Output, LogitsOut},
          {K::Counters, 0, 256, 4}},
         1}};
    plan.programs.push_back(program);
  }
  return plan;
}

// handMadePlan with programs of kind Vision for 2 and 6 tiles, embed(tiles, weights, image rows): a
// tile is an int32 here, and has one row of one channel. Their input and output follow those of
// steps.
inline DevicePlan visionPlan() {
  DevicePlan plan = handMadePlan();
  plan.inputs.push_back({"tiles", ElementType::I32, {{Extent::Tokens}}});
  plan.outputs.push_back({"image_rows", ElementType::F32, {{Extent::Tokens}}});
  for (int32_t tiles : {2, 6}) {
    Program program{tiles, 0};
    program.kind = ProgramKind::Vision;
    program.inputs = {Tiles};
    program.outputs = {ImageRowsOut};
    program.calls = {{0,
                      {{OperandKind::Input, Tiles},
                       {OperandKind::Weight, 1, 288, 32},
                       {OperandKind::Output, ImageRowsOut}},
                      7}};
    plan.programs.push_back(program);
  }
  return plan;
}

// handMadePlan with choose(sampling, ids) at the end of each program.
inline DevicePlan choosingPlan() {
  DevicePlan plan = handMadePlan();
  plan.inputs.push_back(
      {"sampling", ElementType::U8, {{Extent::Rows}, {Extent::Constant, sizeof(RowSampling)}}});
  plan.outputs.push_back({"ids", ElementType::I32, {{Extent::Rows}}});
  plan.kernels.push_back({"choose", 2});
  for (Program &program : plan.programs) {
    program.inputs.push_back(Sampling);
    program.outputs.push_back(IdsOut);
    program.calls.push_back(
        {4, {{OperandKind::Input, Sampling}, {OperandKind::Output, IdsOut}}, 1});
  }
  return plan;
}

// What choose writes for a row: a sum over its draw, or without one 1000 + its flags.
inline int32_t idOf(const RowSampling &row) {
  return row.flags & RowSampling::draws ? int32_t(row.random + uint64_t(row.topK) + row.topP +
                                                  row.minWeight + uint64_t(row.scale))
                                        : int32_t(1000 + row.flags);
}

using Logits = std::vector<float>;

inline Logits expected(const std::vector<std::pair<int, int>> &rows) { // (token, sum of tokens)
  Logits logits;
  for (auto [token, sum] : rows)
    for (int v = 0; v < kVocab; ++v)
      logits.push_back(float(token) - .5f + float(v * sum));
  return logits;
}

// What sessions of these plans ask for: two sequences of up to four pages.
inline const ExecutorOptions executorOptions{2, 4, {8, 8}};

// The rows of tiles, of a plan of visionPlan().
inline Result<std::vector<float>> runTiles(Executor &executor, std::vector<int32_t> tiles) {
  std::vector<std::span<const std::byte>> inputs(Tiles + 1);
  inputs[Tiles] = std::as_bytes(std::span(tiles));
  const TensorPart wanted{ImageRowsOut, 0, tiles.size() * sizeof(float)};
  MOE_TRY(executor.run({int32_t(tiles.size()), 0, inputs, {}, {&wanted, 1}, ProgramKind::Vision}));
  const auto *rows = reinterpret_cast<const float *>(executor.output(ImageRowsOut).data());
  return std::vector<float>(rows, rows + tiles.size());
}

struct Tables {
  std::vector<int32_t> global{5, 2, -1, -1, 3, -1, -1, -1};
};

// A step of a test, with the memory that it refers to.
struct TestStep {
  TestStep(const Tables &tables, std::vector<int32_t> tokens, std::vector<int32_t> positions,
           std::vector<int32_t> sequences, std::vector<int32_t> rows)
      : tokens(std::move(tokens)), positions(std::move(positions)), sequences(std::move(sequences)),
        rows(std::move(rows)), table(tables.global) {
    inputs = {std::as_bytes(std::span(this->tokens)), std::as_bytes(std::span(this->positions)),
              std::as_bytes(std::span(this->sequences)), std::as_bytes(std::span(table)),
              std::as_bytes(std::span(this->rows))};
    for (size_t i = 0; i < this->tokens.size(); ++i) // of two sequences of four pages
      used.push_back({Table, uint64_t(this->sequences[i]) * 16,
                      (uint64_t(this->positions[i]) / 64 + 1) * sizeof(int32_t)});
    wantRows(0, this->rows.size());
  }
  TestStep(const TestStep &) = delete;

  // Logits of some rows, beside what is wanted already.
  void wantRows(size_t first, size_t count) {
    constexpr uint64_t rowBytes = kVocab * sizeof(float);
    if (count)
      wanted.push_back({LogitsOut, first * rowBytes, count * rowBytes});
  }
  void choose(std::vector<RowSampling> with) {
    sampling = std::move(with);
    inputs.push_back(std::as_bytes(std::span(sampling)));
    wanted.push_back({IdsOut, 0, rows.size() * sizeof(int32_t)});
  }
  operator Step() const {
    return {int32_t(tokens.size()), int32_t(rows.size()), inputs, used, wanted};
  }

  std::vector<int32_t> tokens, positions, sequences, rows, table;
  std::vector<RowSampling> sampling;
  std::vector<std::span<const std::byte>> inputs;
  std::vector<TensorPart> used, wanted;
};

template <typename T>
std::vector<T> outputOf(const Executor &executor, Output output, size_t count) {
  const std::span<const std::byte> bytes = executor.output(output);
  EXPECT_LE(count * sizeof(T), bytes.size());
  const T *first = reinterpret_cast<const T *>(bytes.data());
  return std::vector<T>(first, first + count);
}

inline Logits logitsOf(const Executor &executor, size_t rows) {
  return outputOf<float>(executor, LogitsOut, rows * size_t(kVocab));
}

inline Result<Logits> run(Executor &executor, const Tables &tables,
                          const std::vector<int32_t> &tokens, const std::vector<int32_t> &positions,
                          const std::vector<int32_t> &sequences, const std::vector<int32_t> &rows) {
  MOE_TRY(executor.run(TestStep(tables, tokens, positions, sequences, rows)));
  return logitsOf(executor, rows.size());
}

// Steps of several sequences in two of the programs; a page joins the second one.
inline void runRaggedSteps(Executor &executor, Tables &tables) {
  using V = std::vector<int32_t>;
  auto step = [&](const auto &...arguments) {
    auto logits = run(executor, tables, arguments...);
    EXPECT_TRUE(logits) << logits.error().message;
    return logits ? *logits : Logits();
  };
  EXPECT_EQ(step(V{1, 2, 3, 4, 5}, V{0, 1, 2, 0, 1}, V{0, 0, 0, 1, 1}, V{2, 4}),
            expected({{3, 6}, {5, 9}}));
  EXPECT_EQ(step(V{6, 1}, V{3, 2}, V{0, 1}, V{1, 0}), expected({{1, 10}, {6, 12}}));
  EXPECT_TRUE(step(V{2}, V{4}, V{0}, V{}).empty());
  EXPECT_EQ(step(V{0}, V{5}, V{0}, V{0}), expected({{0, 14}}));
  tables.global[5] = 7;
  EXPECT_EQ(step(V{7, 7}, V{64, 3}, V{1, 1}, V{1}), expected({{7, 17}}));
}

} // namespace moe::testplan

#endif
