// The attention half of a layer, norm, qkv and attention, for the tests of its CPU kernels: random
// weights, and sequences of random hidden states.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_TESTCPUATTENTION_H
#define MOE_COMPILER_KERNELS_ATTENTION_TESTCPUATTENTION_H

#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/norm/Norm.h"
#include "compiler/kernels/qkv/Qkv.h"
#include "compiler/kernels/rope_table/RopeTable.h"
#include "compiler/targets/cpu/TestCpuKernel.h"

namespace moe::codegen {

class AttentionLayer : public Kernels {
protected:
  struct Shape {
    int64_t hidden, heads, kvHeads, headDim, chunk;
    bool rope, norm, temperature;
  };
  struct Token {
    int32_t sequence, position;
  };
  using Tokens = std::vector<Token>;
  // Which kernels a step runs: each on its own; those of programs of many tokens; that of programs
  // of few.
  enum Path { Apart, Prepared, Fused };

  // The kernels and weights of a layer.
  void make(const Shape &of, Storage kept) {
    shape = of;
    cache = {
        .heads = shape.kvHeads, .headDim = shape.headDim, .chunk = shape.chunk, .storage = kept};
    cache.pageBytes = before + cache.layerBytes() + 64;
    const WeightFormat format = kind.of(shape.hidden);
    output = kind.of(channels());
    qkvOf = {.hidden = shape.hidden,
             .format = format,
             .eps = eps,
             .finish = {.heads = shape.heads,
                        .cache = cache,
                        .rope = shape.rope,
                        .qkNorm = shape.norm ? std::optional(eps) : std::nullopt,
                        .temperature = shape.temperature ? std::optional(std::pair(0.1f, 16.0f))
                                                         : std::nullopt}};
    bothOf = preparedOf = qkvOf;
    bothOf.attention = output;
    preparedOf.prepared = true;
    normOf = {shape.hidden, 0, 0, format, format, eps};
    attentionOf = {shape.heads, output, cache};
    project = compile(qkvOf);
    projectPrepared = compile(preparedOf);
    both = compile(bothOf);
    prepare = compile(normOf);
    attend = compile(attentionOf);
    frequencies = reference::ropeFrequencies(500000, shape.headDim);
    if (shape.rope)
      rope = compile(RopeTable{SmallVector<float>(ArrayRef(frequencies))});
    w = matrix({qkvOf.finish.rows(), shape.hidden}, WeightLayout::Kind::PanelHeads, format,
               1 / std::sqrt(float(shape.hidden)), shape.headDim);
    norm = norms(shape.hidden);
  }

  // Sequences of these lengths, whose pages lie in a scrambled order.
  void begin(const std::vector<int32_t> &lengthsOf) {
    lengths = lengthsOf;
    all.clear();
    firstOf.clear();
    stride = 0;
    int32_t pageCount = 0;
    for (auto [sequence, length] : llvm::enumerate(lengths)) {
      firstOf.push_back(int64_t(all.size()));
      for (int32_t p = 0; p < length; ++p)
        all.push_back({int32_t(sequence), p});
      stride = std::max(stride, pagesOf(length));
      pageCount += pagesOf(length);
    }
    h = random(all.size() * shape.hidden);
    Ints order(pageCount);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator);
    blocks.assign(lengths.size() * stride, -1);
    for (auto [sequence, length] : llvm::enumerate(lengths))
      for (int32_t page = 0; page < pagesOf(length); ++page) {
        blocks[sequence * stride + page] = order.back();
        order.pop_back();
      }
    pages.resize(pageCount * cache.pageBytes);
    clear();
  }
  static int32_t pagesOf(int32_t length) {
    return int32_t(llvm::divideCeil(length, int32_t(kPageTokens)));
  }
  int64_t channels() const { return shape.heads * shape.headDim; }

  // What other sequences may have left there: any numbers.
  void clear() { std::fill(pages.begin(), pages.end(), std::byte(0x3f)); }

  // One step of these tokens; their rows of attention's result, [tokens, channels].
  Floats step(const Tokens &tokens, int workers, Path path) {
    const int64_t count = int64_t(tokens.size()), n = channels();
    Bytes rows(attentionOf.bytes(Operand::AttentionOut, {count, 0}), std::byte(0xff));
    run(tokens, workers, path, rows);
    // Padding feeds the output projection.
    const ActivationRow row{output, n};
    for (int64_t i = n; !row.quantized() && i < padded(n); ++i)
      EXPECT_EQ(get(rows, i, storage), 0);
    return attentionOf.outputsFloats() ? valuesOf(rows, count, n, Storage::F32)
                                       : valuesOf(rows, count, row);
  }
  // Only the keys and values of the tokens.
  void append(const Tokens &tokens, int workers) {
    Bytes none;
    run(tokens, workers, Apart, none);
  }

  // All tokens, in steps; the result in the order of `all`.
  Floats go(const std::vector<Tokens> &steps, int workers, Path path) {
    clear();
    const int64_t n = channels();
    Floats result(all.size() * n);
    for (const Tokens &tokens : steps) {
      const Floats got = step(tokens, workers, path);
      for (auto [i, token] : llvm::enumerate(tokens))
        std::copy_n(&got[int64_t(i) * n], n, &result[indexOf(token) * n]);
    }
    return result;
  }
  std::vector<Tokens> oneByOne() const {
    std::vector<Tokens> steps;
    for (Token token : all)
      steps.push_back({token});
    return steps;
  }
  int64_t indexOf(Token token) const { return firstOf[token.sequence] + token.position; }
  // Rows of a result of all tokens.
  Floats rowsOfTokens(const Floats &result, const Tokens &tokens) const {
    Floats rows;
    for (Token token : tokens) {
      const float *row = &result[indexOf(token) * channels()];
      rows.insert(rows.end(), row, row + channels());
    }
    return rows;
  }

  // What MoeReference gives for these tokens once all are in the cache.
  Floats expected(const Tokens &tokens) {
    const Floats raw = reference::qkv(h, norm.values, w.values, eps);
    const int64_t width = qkvOf.finish.rows(), kept = shape.kvHeads * shape.headDim;
    Floats keys, values, wanted;
    for (size_t row = 0; row < raw.size(); row += width) {
      auto end = raw.begin() + int64_t(row) + width;
      keys.insert(keys.end(), end - 2 * kept, end - kept);
      values.insert(values.end(), end - kept, end);
    }
    for (Token token : tokens) {
      const float *row = &raw[indexOf(token) * width];
      wanted.insert(wanted.end(), row, row + width);
    }
    const auto [allPositions, allSequences] = placesOf(all);
    const auto [positions, sequences] = placesOf(tokens);
    const Floats table = reference::ropeTable(positions, frequencies);
    reference::AttentionOptions options;
    if (shape.rope) {
      options.ropeTable = table;
      keys = reference::rope(keys, reference::ropeTable(allPositions, frequencies), shape.headDim);
    }
    if (shape.norm) {
      options.qkNormEps = eps;
      keys = reference::headNorm(keys, shape.headDim, eps);
    }
    if (shape.temperature)
      options.temperature = reference::Temperature{0.1f, 16.0f};
    reference::KvCache oracle(shape.kvHeads, shape.headDim, shape.chunk);
    oracle.append(keys, values, allPositions, allSequences);
    return reference::attentionBlock(oracle, wanted, positions, sequences, options);
  }

  static std::pair<Ints, Ints> placesOf(const Tokens &tokens) {
    Ints positions, sequences;
    for (Token token : tokens) {
      positions.push_back(token.position);
      sequences.push_back(token.sequence);
    }
    return {positions, sequences};
  }

  static constexpr float eps = 1e-5f;
  Shape shape;
  std::vector<int32_t> lengths;
  Tokens all; // one sequence after the other
  CacheSpec cache;
  CpuQkv qkvOf, preparedOf, bothOf;
  TestWeight w, norm;
  Floats h, frequencies;
  Bytes pages;

private:
  // Without a place for its result, no attention.
  void run(const Tokens &tokens, int workers, Path path, Bytes &result) {
    const int32_t count = int32_t(tokens.size());
    const Step size{count, 0};
    auto [positions, sequences] = placesOf(tokens);
    Floats x;
    for (Token token : tokens) {
      const float *row = &h[indexOf(token) * shape.hidden];
      x.insert(x.end(), row, row + shape.hidden);
    }
    Bytes hs = rowsOf(x, shape.hidden, Storage::F32);
    Bytes table(count * padded(shape.headDim) * 4 + 256);
    Bytes q(qkvOf.bytes(Operand::Q, size), std::byte(0xff));
    Bytes rows(normOf.bytes(Operand::X, size));
    const Argument positionsOf{Operand::Positions, positions},
        sequencesOf{Operand::Sequences, sequences}, blocksOf{Operand::BlockTable, blocks},
        queries{Operand::Q, q}, kept{Operand::Cache, {pages, size_t(before)}},
        outs{Operand::AttentionOut, result}, normWeight{Operand::Norm, norm.bytes},
        stream{Operand::H, hs}, normed{Operand::X, rows};
    std::vector<Argument> projecting{positionsOf, sequencesOf, blocksOf, {Operand::Weight, w.bytes},
                                     queries,     kept};
    auto start = [&](const Compiled &kernel, const std::vector<Argument> &arguments) {
      Kernels::run(kernel, arguments, count, 0, stride, workers);
    };
    if (shape.rope) {
      start(rope, {positionsOf, {Operand::RopeTable, table}});
      projecting.push_back({Operand::RopeTable, table});
    }
    if (path == Prepared) {
      start(prepare, {stream, normWeight, normed});
      projecting.push_back(normed);
    } else {
      projecting.insert(projecting.end(), {stream, normWeight});
    }
    if (path == Fused) {
      Bytes partials(bothOf.bytes(Operand::Partials, size), std::byte(0xff));
      projecting.push_back(outs);
      projecting.push_back({Operand::Partials, partials});
      return start(both, projecting);
    }
    start(path == Prepared ? projectPrepared : project, projecting);
    if (!result.empty())
      start(attend, {positionsOf, sequencesOf, blocksOf, queries, kept, outs});
  }

  static constexpr int64_t before = 128; // another layer's part of a page
  WeightFormat output;                   // of the weight that the result feeds
  CpuNorm normOf;
  CpuAttention attentionOf;
  Compiled project, projectPrepared, both, prepare, attend, rope;
  std::vector<int64_t> firstOf; // of each sequence, its first token in `all`
  Ints blocks;
  int32_t stride = 0;
};

} // namespace moe::codegen

#endif
