// The kernels of attention, and the one that finishes q, k and v, on the simulator against the
// reference.
#include "compiler/kernels/attention/TestAttention.h"

namespace moe::codegen {

namespace {

constexpr float kEps = 1e-5f;

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

//===----------------------------------------------------------------------===//
// Larger steps
//===----------------------------------------------------------------------===//

struct TiledKernels {
  PtxKernel finish, attend;
  TiledKernels(const Shape &s, llvm::StringRef chip = "sm_90a")
      : finish(CudaFinish{finishOf(s)}, chip), attend(CudaTiledAttention{finishOf(s)}, chip) {}

  Halves run(World &world, int64_t blocks, uint64_t seed) {
    return runTiled(world, finish, blocks, attend, blocks, seed);
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
    World mixed(finishOf(s), {0, 130, 63, 64, 200, 5, 65},
                runs({{0, 70}, {1, 1}, {2, 1}, {3, 3}, {4, 40}, {5, 1}, {6, 1}}));
    Halves out = kernels.run(mixed, 5, 1);
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(kernels.run(mixed, 2, 2), out);
    World few(finishOf(s), {127, 128, 0}, {0, 1, 2});
    kernels.run(few, 3, 3);
    ASSERT_FALSE(HasFailure());
  }
}

TEST(TiledAttention, Scout) {
  TiledKernels kernels(kScout);
  World world(finishOf(kScout), {1000, 999, 1023, 60}, runs({{0, 40}, {1, 1}, {2, 1}, {3, 30}}));
  kernels.run(world, 16, 1);
}

// Every page of a long context, by a run of more tokens than a piece of work has.
TEST(TiledAttention, ScoutNope) {
  TiledKernels kernels(kScoutNope);
  World world(finishOf(kScoutNope), {1490, 320}, runs({{0, 26}, {1, 2}}));
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
    World world(finishOf(s), {0, 0, 0, c - 1, c, c + 1, 3 * c - 2, 300},
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
  World world(finishOf(s), {30, 0, 7}, runs({{0, 1030}, {1, 1}, {2, 1200}}));
  Halves out = kernels.run(world, 7, 1);
  EXPECT_EQ(kernels.run(world, 3, 2), out);
}

//===----------------------------------------------------------------------===//
// Small steps
//===----------------------------------------------------------------------===//

struct FusedKernel {
  CudaFusedAttention contract;
  PtxKernel kernel;
  FusedKernel(const Shape &s, int64_t splits, int64_t sumSplits = 1,
              llvm::StringRef chip = "sm_90a")
      : contract{finishOf(s, sumSplits), splits}, kernel(contract, chip) {}

  Halves run(World &world, int64_t blocks, uint64_t seed) {
    return runFused(world, contract, kernel, blocks, seed);
  }
};

TEST_P(Attention, FusedShapes) {
  for (const Shape &s : kShapes) {
    SCOPED_TRACE(textOf(s));
    FusedKernel kernel(s, 4, 2, GetParam());
    for (const Ints &step : {Ints{0}, Ints{1, 1, 1, 2, 0}, Ints{4, 4, 1, 3, 2, 2, 2, 0}}) {
      World world(finishOf(s, 2), {0, 199, 63, 64, 390}, step);
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
      World world(finishOf(s), {length}, runs({{0, count}}));
      kernel.run(world, 5, length);
      ASSERT_FALSE(HasFailure());
    }
}

TEST(FusedAttention, Splits) {
  Shape s{.heads = 8, .kvHeads = 2, .headDim = 64};
  for (int64_t splits : {1, 2, 5, 16}) {
    SCOPED_TRACE(testing::Message() << splits << " splits");
    FusedKernel kernel(s, splits);
    World world(finishOf(s), {700, 3, 130}, {0, 1, 2, 2});
    Halves out = kernel.run(world, 3, 1);
    ASSERT_FALSE(HasFailure());
    for (uint64_t seed : {2, 3, 4})
      EXPECT_EQ(kernel.run(world, 64, seed), out);
  }
}

TEST(FusedAttention, Scout) {
  for (const Shape &s : {kScout, kScoutNope}) {
    FusedKernel kernel(s, 16, 2);
    World world(finishOf(s, 2), {1000}, {0});
    Halves out = kernel.run(world, 128, 1);
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(kernel.run(world, 24, 2), out);
    World several(finishOf(s, 2), {1000, 1022}, {0, 1, 1, 1});
    kernel.run(several, 64, 3);
  }
}

//===----------------------------------------------------------------------===//
// What the assembler says, and contracts
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

TEST(AttentionContracts, RefuseHeadsWithoutAKernel) {
  FinishSpec narrow = finishOf({.heads = 2, .kvHeads = 1, .headDim = 24}), wide = narrow,
             codes = finishOf({.heads = 2, .kvHeads = 1, .headDim = 64, .storage = Storage::I8});
  wide.cache.headDim = 272;
  for (auto &[finish, why] :
       {std::pair(narrow,
                  "head_dim is 24, and the kernels for GPUs take multiples of 16 up to 256"),
        {wide, "head_dim is 272, and the kernels for GPUs take multiples of 16 up to 256"},
        {codes, "the caches of GPUs keep 16-bit floats, not int8"}}) {
    EXPECT_EQ(CudaFinish{finish}.refusal(), why);
    EXPECT_EQ(CudaTiledAttention{finish}.refusal(), why);
    EXPECT_EQ(CudaFusedAttention{finish}.refusal(), why);
  }
}

} // namespace

} // namespace moe::codegen
