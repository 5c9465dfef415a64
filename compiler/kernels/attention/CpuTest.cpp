// The attention half of a layer: norm, qkv and attention, at odd sizes, in steps of any size, on
// every processor that this machine has or emulates, against MoeReference. The bits of a result
// depend neither on the number of workers nor on the other tokens of the step.
#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/norm/Norm.h"
#include "compiler/kernels/qkv/Qkv.h"
#include "compiler/kernels/rope_table/RopeTable.h"
#include "compiler/targets/cpu/TestCpuKernel.h"
#include <map>

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

constexpr float kEps = 1e-5f;

class AttentionKernels : public Kernels {};

TEST_P(AttentionKernels, StepsOfAnySize) {
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
  std::vector<Storage> storages{storage}; // of keys and values
  if (kind.element == Storage::BF16)
    storages.push_back(Storage::I8);
  for (Storage kept : storages)
    for (auto c : cases) {
      CacheSpec cache{.heads = c.kvHeads, .headDim = c.headDim, .chunk = c.chunk, .storage = kept};
      int64_t before = 128; // another layer's part of the page
      cache.pageBytes = before + cache.layerBytes() + 64;
      const WeightFormat format = kind.of(c.hidden), output = kind.of(c.heads * c.headDim);
      CpuQkv qkvOf{.hidden = c.hidden,
                   .format = format,
                   .eps = kEps,
                   .finish = {.heads = c.heads,
                              .cache = cache,
                              .rope = c.rope,
                              .qkNorm = c.norm ? std::optional(kEps) : std::nullopt,
                              .temperature = c.temperature ? std::optional(std::pair(0.1f, 16.0f))
                                                           : std::nullopt}};
      CpuQkv bothOf = qkvOf;
      bothOf.attention = output;
      const CpuNorm normOf{c.hidden, 0, 0, format, format, kEps};
      const CpuAttention attentionOf{c.heads, output, cache};
      Compiled project = compile(qkvOf), prepare = compile(normOf), attend = compile(attentionOf);
      qkvOf.prepared = true;
      Compiled projectPrepared = compile(qkvOf);
      Compiled both = compile(bothOf), rope{};
      Floats frequencies = reference::ropeFrequencies(500000, c.headDim);
      if (c.rope)
        rope = compile(RopeTable{SmallVector<float>(ArrayRef(frequencies))});

      int64_t n = (c.heads + 2 * c.kvHeads) * c.headDim, out = c.heads * c.headDim;
      TestWeight w = matrix({n, c.hidden}, WeightLayout::Kind::PanelHeads, kind.of(c.hidden),
                            1 / std::sqrt(float(c.hidden)), c.headDim),
                 norm = norms(c.hidden);

      // Three sequences of 130, 40 and 9 positions; pages in a scrambled order.
      constexpr int32_t stride = 4;
      Ints blocks{5, 2, 7, -1, 0, 6, -1, -1, 3, -1, -1, -1};
      std::vector<int32_t> lengths{130, 40, 9};
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
          const Step size{T, 0};
          Bytes hs = rowsOf(x, c.hidden, Storage::F32), table(T * padded(c.headDim) * 4 + 256);
          Bytes q(qkvOf.bytes(Operand::Q, size), std::byte(0xff));
          Bytes o(attentionOf.bytes(Operand::AttentionOut, size), std::byte(0xff));
          Bytes rows(normOf.bytes(Operand::X, size));
          const Argument positionsOf{Operand::Positions, positions},
              sequencesOf{Operand::Sequences, sequences}, blocksOf{Operand::BlockTable, blocks},
              queries{Operand::Q, q}, kept{Operand::Cache, {pages, size_t(before)}},
              outs{Operand::AttentionOut, o}, normWeight{Operand::Norm, norm.bytes},
              stream{Operand::H, hs}, normed{Operand::X, rows};
          std::vector<Argument> projecting{
              positionsOf, sequencesOf, blocksOf, {Operand::Weight, w.bytes}, queries, kept};
          if (c.rope) {
            run(rope, {positionsOf, {Operand::RopeTable, table}}, T, 0, stride, workers);
            projecting.push_back({Operand::RopeTable, table});
          }
          if (prepared) {
            run(prepare, {stream, normWeight, normed}, T, 0, stride, workers);
            projecting.push_back(normed);
          } else {
            projecting.insert(projecting.end(), {stream, normWeight});
          }
          if (fused) {
            Bytes partials(bothOf.bytes(Operand::Partials, size), std::byte(0xff));
            projecting.push_back(outs);
            projecting.push_back({Operand::Partials, partials});
            run(both, projecting, T, 0, stride, workers);
          } else {
            run(prepared ? projectPrepared : project, projecting, T, 0, stride, workers);
            run(attend, {positionsOf, sequencesOf, blocksOf, queries, kept, outs}, T, 0, stride,
                workers);
          }
          const ActivationRow row{output, out};
          Floats got =
              attentionOf.outputsFloats() ? valuesOf(o, T, out, Storage::F32) : valuesOf(o, T, row);
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

INSTANTIATE_TEST_SUITE_P(Cpu, AttentionKernels, someKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, AttentionKernels, emulatedKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(CpuCodes, AttentionKernels,
                         testing::Combine(testing::Values("x86-64-v4", "aarch64"),
                                          testing::Values(kInt4Kind)),
                         nameOfCase);

} // namespace
