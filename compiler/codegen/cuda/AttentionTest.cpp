// Runs the kernels of attention on the simulator, against the reference.
#include "compiler/codegen/cuda/AttentionLayout.h"
#include "compiler/codegen/cuda/CudaKernels.h"
#include "compiler/codegen/cuda/TestPtx.h"
#include "dialects/moe/MoeReference.h"
#include <numeric>
#include <random>

using namespace moe;
using namespace moe::codegen;

namespace {

using Floats = std::vector<float>;
using Halves = std::vector<uint16_t>;
using Ints = std::vector<int32_t>;

constexpr float kEps = 1e-5f;
constexpr int32_t kStride = 24; // pages that a sequence may have

uint16_t toHalf(float x, Storage s) {
  return s == Storage::BF16 ? toBf16(x) : std::bit_cast<uint16_t>(_Float16(x));
}
float fromHalf(uint16_t x, Storage s) {
  return s == Storage::BF16 ? fromBf16(x) : float(std::bit_cast<_Float16>(x));
}

struct Shape {
  int64_t heads, kvHeads, headDim, chunk = 0;
  bool rope = true, norm = true, temperature = false;
  Storage storage = Storage::F16;
};

FinishSpec finishOf(const Shape &s, int64_t sumSplits = 1) {
  FinishSpec f{
      .heads = s.heads,
      .cache = {.heads = s.kvHeads, .headDim = s.headDim, .chunk = s.chunk, .storage = s.storage},
      .rope = s.rope,
      .qkNorm = s.norm ? std::optional(kEps) : std::nullopt,
      .temperature = s.temperature ? std::optional(std::pair(0.1f, 16.0f)) : std::nullopt,
      .sumSplits = sumSplits};
  f.cache.pageBytes = 256 + cudaLayerBytes(f.cache) + 64; // with other layers' parts around ours
  return f;
}

// Sequences with a history in the cache, and a step that continues them.
class World {
public:
  struct Token {
    int32_t sequence, position;
  };

  // `lengths`: positions in the cache, by sequence; `step`: the sequence of each of its tokens.
  World(const Shape &s, const Ints &lengths, const Ints &step, int64_t sumSplits = 1)
      : shape(s), spec(finishOf(s, sumSplits)), oracle(s.kvHeads, s.headDim, s.chunk) {
    Ints end = lengths;
    for (int32_t sequence : step)
      tokens.push_back({sequence, end[sequence]++});
    // Pages in a scrambled order; of chunked layers those before the current chunk are gone.
    table.assign(lengths.size() * kStride, -1);
    auto pagesOf = [&](auto each) {
      for (size_t i = 0; i < lengths.size(); ++i)
        for (int32_t p = s.chunk ? lengths[i] / s.chunk * s.chunk / 64 : 0; p * 64 < end[i]; ++p)
          each(table[i * kStride + p]);
    };
    pagesOf([&](int32_t &) { ++pages; });
    Ints order(pages);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator);
    pagesOf([&](int32_t &page) {
      page = order.back();
      order.pop_back();
    });

    int64_t channels = s.kvHeads * s.headDim;
    for (size_t i = 0; i < lengths.size(); ++i) {
      keys.push_back(rounded(lengths[i] * channels));
      values.push_back(rounded(lengths[i] * channels));
      Ints positions(lengths[i]), sequences(lengths[i], int32_t(i));
      std::iota(positions.begin(), positions.end(), 0);
      oracle.append(keys.back(), values.back(), positions, sequences);
    }

    int64_t n = spec.rows() * int64_t(tokens.size());
    qkv.assign(n, 0);
    for (int64_t split = 0; split < sumSplits; ++split)
      for (int64_t i = 0; i < n; ++i) {
        sums.push_back(normal(generator) / std::sqrt(float(sumSplits)));
        qkv[i] += sums.back();
      }
    for (Token t : tokens) {
      positions.push_back(t.position);
      sequences.push_back(t.sequence);
    }
    Floats frequencies = reference::ropeFrequencies(500000, s.headDim);
    Floats rope = reference::ropeTable(positions, frequencies);
    for (size_t t = 0; t < tokens.size(); ++t) {
      ropeRows.insert(ropeRows.end(), &rope[t * s.headDim], &rope[t * s.headDim] + s.headDim);
      ropeRows.resize((t + 1) * padded(s.headDim), 0);
    }
    reference::AttentionOptions options;
    if (s.rope)
      options.ropeTable = rope;
    if (s.norm)
      options.qkNormEps = kEps;
    if (s.temperature)
      options.temperature = reference::Temperature{0.1f, 16.0f};
    want = reference::attentionBlock(oracle, qkv, positions, sequences, options);
  }

  struct Buffers {
    uint64_t positions, sequences, table, sums, cache, out, rope;
  };
  Buffers put(PtxBench &bench) {
    Buffers b;
    b.positions = bench.put(positions, "positions");
    b.sequences = bench.put(sequences, "sequences");
    b.table = bench.put(table, "table");
    b.sums = bench.put(sums, "sums");
    b.cache = bench.room(pages * spec.cache.pageBytes, "cache") + 256;
    b.out = bench.room(tokens.size() * padded(shape.heads * shape.headDim) * 2, "out");
    b.rope = bench.put(ropeRows, "rope");
    for (size_t i = 0; i < keys.size(); ++i)
      for (int64_t p = 0; p < int64_t(keys[i].size()) / (shape.kvHeads * shape.headDim); ++p)
        for (int64_t head = 0; head < shape.kvHeads; ++head)
          for (int64_t part = 0; part < 2; ++part) {
            int32_t page = table[i * kStride + p / 64];
            if (page < 0)
              continue;
            const float *from =
                &(part ? values : keys)[i][(p * shape.kvHeads + head) * shape.headDim];
            for (int64_t c = 0; c < shape.headDim; c += 8) {
              Halves chunk(8);
              for (int64_t j = 0; j < 8; ++j)
                chunk[j] = toHalf(from[c + j], shape.storage);
              bench.copyIn(chunkAddress(b, page, p, head, part, c),
                           std::as_bytes(std::span(chunk)));
            }
          }
    return b;
  }
  cuda::StepInfo step() const { return {int32_t(tokens.size()), 0, kStride, 0}; }

  // Compares the step's output and what it appended to the cache.
  void check(PtxBench &bench, const Buffers &b) {
    int64_t n = shape.heads * shape.headDim, row = padded(n);
    auto got = bench.get<uint16_t>(b.out, tokens.size() * row);
    double largest = 0, error = 0;
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (int64_t c = 0; c < n; ++c) {
        float x = fromBf16(got[t * row + c]);
        ASSERT_TRUE(std::isfinite(x)) << "token " << t << " channel " << c;
        largest = std::max<double>(largest, std::abs(want[t * n + c]));
        error = std::max<double>(error, std::abs(double(x) - want[t * n + c]));
      }
      for (int64_t c = n; c < row; ++c)
        EXPECT_EQ(got[t * row + c], 0) << "padding of token " << t;
    }
    // The output loses up to 2^-9, q, k, v and the weights up to 2^-9 each (bf16) or 2^-12 (f16)
    // of their values; those of many keys cancel, those of a token's largest do not.
    EXPECT_LE(error, largest * (shape.storage == Storage::BF16 ? 1.6e-2 : 5e-3));

    Halves kept;
    for (size_t t = 0; t < tokens.size(); ++t)
      for (int64_t head = 0; head < shape.kvHeads; ++head)
        for (int64_t part = 0; part < 2; ++part) {
          auto [sequence, position] = tokens[t];
          int32_t page = table[sequence * kStride + position / 64];
          auto row =
              part ? oracle.value(sequence, position, head) : oracle.key(sequence, position, head);
          for (int64_t c = 0; c < shape.headDim; ++c) {
            if (c % 8 == 0)
              kept = bench.get<uint16_t>(chunkAddress(b, page, position, head, part, c), 8);
            ASSERT_NEAR(fromHalf(kept[c % 8], shape.storage), row[c],
                        std::abs(row[c]) * (shape.storage == Storage::BF16 ? 4e-3 : 5e-4) + 1e-6)
                << "token " << t << " head " << head << (part ? " value " : " key ") << c;
          }
        }
  }

  const Shape shape;
  const FinishSpec spec;
  std::vector<Token> tokens;
  Ints positions, sequences, table;
  Floats sums, qkv, ropeRows, want;

private:
  // Of eight channels of a key (part 0) or a value (part 1) in the cache.
  uint64_t chunkAddress(const Buffers &b, int32_t page, int64_t position, int64_t head,
                        int64_t part, int64_t channel) {
    TileLayout layout{shape.headDim};
    return b.cache + page * spec.cache.pageBytes + (head * 2 + part) * layout.bytes() +
           layout.offset(position % 64, channel);
  }
  Floats rounded(int64_t n) {
    Floats x(n);
    for (float &v : x)
      v = fromHalf(toHalf(normal(generator), shape.storage), shape.storage);
    return x;
  }

  std::mt19937 generator{11};
  std::normal_distribution<float> normal;
  reference::KvCache oracle;
  std::vector<Floats> keys, values; // of the history, by sequence
  int64_t pages = 0;
};

// The order of bytes in a page is there for this.
void expectFewConflicts(const PtxBench &bench) {
  EXPECT_LE(bench.stats.sharedConflicts * 10, bench.stats.sharedAccesses);
}

//===----------------------------------------------------------------------===//
// Larger steps
//===----------------------------------------------------------------------===//

struct TiledKernels {
  PtxKernel finish, attend;
  TiledKernels(const Shape &s, llvm::StringRef chip = "sm_90a")
      : finish({.op = finishOf(s), .tile = 64}, emitFinish, chip),
        attend({.op = CudaAttentionSpec{finishOf(s), Storage::BF16}, .tile = 64},
               emitTiledAttention, chip) {}

  Halves run(World &world, int64_t blocks, uint64_t seed) {
    PtxBench bench;
    bench.options.seed = seed;
    auto b = world.put(bench);
    int64_t n = world.tokens.size() * world.shape.heads * world.shape.headDim;
    uint64_t q = bench.room(n * 2, "q");
    std::vector<uint64_t> operands{b.positions, b.sequences, b.table, b.sums, q, b.cache};
    if (world.shape.rope)
      operands.push_back(b.rope);
    bench.run(finish, blocks, operands, world.step());
    bench.run(attend, blocks, {b.positions, b.sequences, b.table, q, b.cache, b.out}, world.step());
    if (testing::Test::HasFatalFailure())
      return {};
    expectFewConflicts(bench);
    world.check(bench, b);
    return bench.get<uint16_t>(b.out, world.tokens.size() *
                                          padded(world.shape.heads * world.shape.headDim));
  }
};

// `count` tokens of one sequence after another.
Ints runs(std::initializer_list<std::pair<int32_t, int32_t>> list) {
  Ints step;
  for (auto [sequence, count] : list)
    step.insert(step.end(), count, sequence);
  return step;
}

const Shape kShapes[] = {
    {.heads = 4, .kvHeads = 4, .headDim = 16},
    {.heads = 4, .kvHeads = 2, .headDim = 32, .chunk = 100},
    {.heads = 10, .kvHeads = 2, .headDim = 64, .rope = false, .norm = false, .temperature = true},
    {.heads = 3, .kvHeads = 1, .headDim = 128, .norm = false},
    {.heads = 3, .kvHeads = 1, .headDim = 48, .storage = Storage::BF16},
    {.heads = 20, .kvHeads = 1, .headDim = 32},
    {.heads = 2, .kvHeads = 1, .headDim = 256},
    {.heads = 10, .kvHeads = 2, .headDim = 128, .chunk = 128, .storage = Storage::BF16},
};

// Scout, with a chunk that the tests' contexts reach.
const Shape kScout{.heads = 40, .kvHeads = 8, .headDim = 128, .chunk = 1024};
const Shape kScoutNope{
    .heads = 40, .kvHeads = 8, .headDim = 128, .rope = false, .norm = false, .temperature = true};

std::string textOf(const Shape &s) {
  return std::to_string(s.heads) + ":" + std::to_string(s.kvHeads) + " heads of " +
         std::to_string(s.headDim);
}

class Attention : public testing::TestWithParam<const char *> {};
INSTANTIATE_TEST_SUITE_P(Targets, Attention, testing::Values("sm_80", "sm_90a", "sm_100a"));

TEST_P(Attention, TiledShapes) {
  for (const Shape &s : kShapes) {
    SCOPED_TRACE(textOf(s));
    TiledKernels kernels(s, GetParam());
    // Pieces of prompts from the start, inside a page and across chunks; single tokens around the
    // borders of pages.
    World mixed(s, {0, 130, 63, 64, 200, 5, 65},
                runs({{0, 70}, {1, 1}, {2, 1}, {3, 3}, {4, 40}, {5, 1}, {6, 1}}));
    Halves out = kernels.run(mixed, 5, 1);
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(kernels.run(mixed, 2, 2), out);
    World few(s, {127, 128, 0}, {0, 1, 2});
    kernels.run(few, 3, 3);
    ASSERT_FALSE(HasFailure());
  }
}

TEST(TiledAttention, Scout) {
  TiledKernels kernels(kScout);
  World world(kScout, {1000, 999, 1023, 60}, runs({{0, 40}, {1, 1}, {2, 1}, {3, 30}}));
  kernels.run(world, 16, 1);
}

// Every page of a long context, by a run of more tokens than a piece of work has.
TEST(TiledAttention, ScoutNope) {
  TiledKernels kernels(kScoutNope);
  World world(kScoutNope, {1490, 320}, runs({{0, 26}, {1, 2}}));
  kernels.run(world, 16, 1);
}

// Prompts that end one before, at and one after a border of chunks, or begin there; chunks that
// begin at a page and inside one. Runs of 12 tokens have 60 rows, which one warpgroup takes, 13
// have 65; and there are blocks without work.
TEST_P(Attention, TiledBorders) {
  for (const Shape &s :
       {Shape{.heads = 5, .kvHeads = 1, .headDim = 64, .chunk = 128},
        Shape{.heads = 10, .kvHeads = 2, .headDim = 32, .chunk = 160},
        Shape{.heads = 5, .kvHeads = 1, .headDim = 128, .chunk = 72, .storage = Storage::BF16}}) {
    SCOPED_TRACE(textOf(s));
    TiledKernels kernels(s, GetParam());
    int32_t c = int32_t(s.chunk);
    World world(s, {0, 0, 0, c - 1, c, c + 1, 3 * c - 2, 300},
                runs({{0, c - 1}, {1, c}, {2, c + 1}, {3, 2}, {4, 12}, {5, 13}, {6, 26}, {7, 2}}));
    Halves out = kernels.run(world, 6, 1);
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(kernels.run(world, 60, 2), out);
  }
}

// More tokens than runs are listed for at once.
TEST(TiledAttention, Windows) {
  Shape s{.heads = 2, .kvHeads = 1, .headDim = 16};
  TiledKernels kernels(s);
  World world(s, {30, 0, 7}, runs({{0, 1030}, {1, 1}, {2, 1200}}));
  Halves out = kernels.run(world, 7, 1);
  EXPECT_EQ(kernels.run(world, 3, 2), out);
}

//===----------------------------------------------------------------------===//
// Small steps
//===----------------------------------------------------------------------===//

struct FusedKernel {
  CudaSpec spec;
  PtxKernel kernel;
  FusedKernel(const Shape &s, int64_t splits, int64_t sumSplits = 1,
              llvm::StringRef chip = "sm_90a")
      : spec{.op = CudaAttentionSpec{finishOf(s, sumSplits), Storage::BF16}, .splits = splits},
        kernel(spec, emitFusedAttention, chip) {}

  Halves run(World &world, int64_t blocks, uint64_t seed) {
    PtxBench bench;
    bench.options.seed = seed;
    auto b = world.put(bench);
    std::vector<uint32_t> zeros(counterBytes(spec) / 4);
    uint64_t partials = bench.room(partialBytes(spec), "partials");
    uint64_t counters = bench.put(zeros, "counters");
    std::vector<uint64_t> operands{b.positions, b.sequences, b.table,  b.sums,
                                   b.cache,     b.out,       partials, counters};
    if (world.shape.rope)
      operands.push_back(b.rope);
    bench.run(kernel, blocks, operands, world.step());
    if (testing::Test::HasFatalFailure())
      return {};
    expectFewConflicts(bench);
    world.check(bench, b);
    EXPECT_EQ(bench.get<uint32_t>(counters, zeros.size()), zeros);
    return bench.get<uint16_t>(b.out, world.tokens.size() *
                                          padded(world.shape.heads * world.shape.headDim));
  }
};

TEST_P(Attention, FusedShapes) {
  for (const Shape &s : kShapes) {
    SCOPED_TRACE(textOf(s));
    FusedKernel kernel(s, 4, 2, GetParam());
    for (const Ints &step : {Ints{0}, Ints{1, 1, 1, 2, 0}, Ints{4, 4, 1, 3, 2, 2, 2, 0}}) {
      World world(s, {0, 199, 63, 64, 390}, step, 2);
      Halves out = kernel.run(world, 7, 1);
      ASSERT_FALSE(HasFailure());
      EXPECT_EQ(kernel.run(world, 40, 2), out);
    }
  }
}

// Every position around the borders of pages and chunks, and every number of tokens.
TEST(FusedAttention, Borders) {
  Shape s{.heads = 5, .kvHeads = 1, .headDim = 32, .chunk = 192};
  FusedKernel kernel(s, 3);
  for (int32_t length : {1, 62, 63, 64, 65, 127, 128, 185, 190, 191, 192, 193, 255, 383, 384})
    for (int32_t count : {1, 2, 8}) {
      SCOPED_TRACE(testing::Message() << count << " tokens after " << length);
      World world(s, {length}, runs({{0, count}}));
      kernel.run(world, 5, length);
      ASSERT_FALSE(HasFailure());
    }
}

TEST(FusedAttention, Splits) {
  Shape s{.heads = 8, .kvHeads = 2, .headDim = 64};
  for (int64_t splits : {1, 2, 5, 16}) {
    SCOPED_TRACE(testing::Message() << splits << " splits");
    FusedKernel kernel(s, splits);
    World world(s, {700, 3, 130}, {0, 1, 2, 2});
    Halves out = kernel.run(world, 3, 1);
    ASSERT_FALSE(HasFailure());
    for (uint64_t seed : {2, 3, 4})
      EXPECT_EQ(kernel.run(world, 64, seed), out);
  }
}

TEST(FusedAttention, Scout) {
  for (const Shape &s : {kScout, kScoutNope}) {
    FusedKernel kernel(s, 16, 2);
    World world(s, {1000}, {0}, 2);
    Halves out = kernel.run(world, 128, 1);
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(kernel.run(world, 24, 2), out);
    World several(s, {1000, 1022}, {0, 1, 1, 1}, 2);
    kernel.run(several, 64, 3);
  }
}

//===----------------------------------------------------------------------===//
// What the assembler says
//===----------------------------------------------------------------------===//

TEST_P(Attention, Assembles) {
  for (Shape s : {kScout, kScoutNope, Shape{.heads = 10, .kvHeads = 2, .headDim = 64},
                  Shape{.heads = 8, .kvHeads = 1, .headDim = 128, .storage = Storage::BF16}}) {
    TiledKernels tiled(s, GetParam());
    tiled.finish.expectAssembles(64);
    tiled.attend.expectAssembles(168);
    EXPECT_LE(tiled.attend.sharedBytes, 163 << 10); // of an A100
    FusedKernel fused(s, 16, 2, GetParam());
    fused.kernel.expectAssembles(168);
    EXPECT_LE(fused.kernel.sharedBytes, 112 << 10); // beside which the next kernel's block fits
  }
}

} // namespace
