// A small plan for tests of devices, and what its steps give. Its kernels: "embed" looks up a
// number per token, "store" puts the token into the cache, "head" adds up the sequence's tokens so
// far, "choose" makes an id of what is wanted of a row. Each device's test brings them, as images
// or in another way; kernel 1, "other", is in none of them.
#ifndef MOE_RUNTIME_DEVICE_TESTPLAN_H
#define MOE_RUNTIME_DEVICE_TESTPLAN_H

#include "runtime/device/Device.h"

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

// The programs take 1, 4 and 16 tokens and up to 4 rows:
//   embed(tokens, weights float [8], arena float [T])
//   store(tokens, positions, sequences, table, cache)
//   head(positions, sequences, table, cache, arena, rows, logits, counter uint32)
// Row r of the logits is embedding + v * sum of the sequence's tokens + counter, for v < 8.
inline DevicePlan handMadePlan() {
  using K = OperandKind;
  auto in = [](InputName name) { return Operand{K::Input, uint32_t(name)}; };
  DevicePlan plan;
  plan.vocab = kVocab;
  plan.sections = {{}, std::as_bytes(std::span(bytes.weights))};
  plan.pools = {{"chunked", 128, 64, kPageInts * 4 + 64}, {"global", 0, 64, kPageInts * 4}};
  plan.kernels = {{"embed", 3}, {"other", 1}, {"store", 5}, {"head", 8}};
  for (int32_t tokens : {1, 4, 16}) {
    Program program{tokens, std::min(tokens, 4), 4096, 300, {}, 512};
    program.calls = {
        {0, {in(InputName::Tokens), {K::Weight, 1, 288, 32}, {K::Arena, 0, 256, 64}}, 7},
        {2,
         {in(InputName::Tokens),
          in(InputName::Positions),
          in(InputName::Sequences),
          in(InputName::GlobalTable),
          {K::Cache, 1, 0}},
         1000},
        {3,
         {in(InputName::Positions),
          in(InputName::Sequences),
          in(InputName::GlobalTable),
          {K::Cache, 1, 0},
          {K::Arena, 0, 256},
          in(InputName::Rows),
          {K::Logits},
          {K::Counters, 0, 256, 4}},
         1}};
    plan.programs.push_back(program);
  }
  return plan;
}

// The same with choose(sampling, ids) at the end of each program.
inline DevicePlan choosingPlan() {
  DevicePlan plan = handMadePlan();
  plan.kernels.push_back({"choose", 2});
  for (Program &program : plan.programs)
    program.calls.push_back(
        {4, {{OperandKind::Input, uint32_t(InputName::Sampling)}, {OperandKind::Ids}}, 1});
  return plan;
}

// What choose writes for a row: a sum over its draw, or without one 1000 + its flags.
inline int32_t idOf(const RowSampling &row) {
  return row.flags & RowSampling::draws ? int32_t(row.random + uint64_t(row.topK) + row.topP +
                                                  row.minWeight + uint64_t(row.scale))
                                        : int32_t(1000 + row.flags);
}

using Logits = std::vector<float>;

inline Logits expected(std::vector<std::pair<int, int>> rows) { // (token, sum of tokens)
  Logits logits;
  for (auto [token, sum] : rows)
    for (int v = 0; v < kVocab; ++v)
      logits.push_back(float(token) - .5f + float(v * sum));
  return logits;
}

// What sessions of these plans ask for: two sequences of up to four pages.
inline const ExecutorOptions executorOptions{2, 4, {8, 8}};

struct Tables {
  std::vector<int32_t> chunked = std::vector<int32_t>(8, -1);
  std::vector<int32_t> global{5, 2, -1, -1, 3, -1, -1, -1};
};

inline Result<Logits> run(Executor &executor, const Tables &tables, std::vector<int32_t> tokens,
                          std::vector<int32_t> positions, std::vector<int32_t> sequences,
                          std::vector<int32_t> rows) {
  MOE_ASSIGN(result,
             executor.run({tokens, positions, sequences, rows, {tables.chunked, tables.global}}));
  return Logits(result.logits.begin(), result.logits.end());
}

// Steps of several sequences in two of the programs; a page joins the second one.
inline void runRaggedSteps(Executor &executor, Tables &tables) {
  using V = std::vector<int32_t>;
  auto step = [&](auto... arguments) {
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
