// The kernels of a GPU plan: the facts of KernelSpec.h, and how a step of a certain size runs them.
// README.md lists the operands of each and the shapes of the buffers.
#ifndef MOE_COMPILER_TARGETS_CUDA_CUDASPEC_H
#define MOE_COMPILER_TARGETS_CUDA_CUDASPEC_H

#include "compiler/targets/KernelSpec.h"

namespace moe::codegen {

inline constexpr int64_t kSmallTokens = 8;       // the most tokens of a small step
inline constexpr int64_t kStripRows = 16;        // weight rows of a strip of fragments
inline constexpr int64_t kFragmentBytes = 512;   // 16 rows by 16 columns
inline constexpr int64_t kMultiprocessors = 132; // what splits are chosen for (H100)

inline constexpr int64_t kRowSamplingBytes = 40; // RowSampling of runtime/device/cuda/KernelAbi.h
inline constexpr int64_t kSampleBlocks = 16;     // that share a row of logits, at most
inline constexpr int64_t kSampleWarps = 16;      // of a block that samples
inline constexpr int64_t kSharedRows = 64;       // the most rows of a step whose rows are shared
inline constexpr int64_t kSampleBuckets = 2048;  // of a digit of a logit
inline constexpr int64_t kSampleHistogramBytes = 3 * kSampleBuckets * 8; // of a shared row

inline constexpr WeightFormat kBf16{Storage::BF16};

// A layer's part of a KV page on a GPU: per head 64 keys of head_dim, then 64 values, 16 bits each.
// How the bytes of a page are ordered inside is the affair of the kernels of attention.
inline int64_t cudaLayerBytes(const CacheSpec &c) {
  return c.heads * 2 * kPageTokens * c.headDim * 2;
}

// What turns raw sums into q, k and v. `cache.pageBytes` is of the pool, of this device.
struct FinishSpec {
  int64_t heads;
  CacheSpec cache;
  bool rope;
  std::optional<float> qkNorm;
  std::optional<std::pair<float, float>> temperature; // scale, floor
  int64_t sumSplits = 1; // of the operand `sums`: those of the kernel that made it

  int64_t rows() const { return (heads + 2 * cache.heads) * cache.headDim; }
};

// Small: with the finishing of q, k, v before it. Otherwise q comes finished.
struct CudaAttentionSpec {
  FinishSpec finish;
  Storage output;
};

struct NormSpec {
  int64_t hidden;
  Storage storage;
  float eps;
  bool gather; // of the step's rows; otherwise of all of its tokens
};

struct RouterSpec {
  int64_t hidden, experts;
  Storage storage; // of x
  float eps;
};

struct LinearSpec {
  int64_t inputs, outputs;
  WeightFormat format;
};

// Draws the ids of rows that are not greedy.
struct SampleSpec {
  int64_t vocabulary;
};

// h, norm, weight, sums of small steps.
struct CudaQkvSpec {
  int64_t hidden, rows;
  WeightFormat format;
  float eps;
};

using CudaOp = std::variant<EmbedSpec, RopeTableSpec, CudaQkvSpec, CudaAttentionSpec,
                            LinearResidualSpec, GateUpSpec, DownSpec, HeadSpec, NormSpec,
                            LinearSpec, FinishSpec, RouterSpec, SampleSpec>;

struct CudaSpec {
  CudaOp op;
  int64_t tile = kSmallTokens; // kSmallTokens: a small step's kernel. More: tokens of a tile
  int64_t splits = 1;          // shares of K, or of the positions that are attended to. Of `down`
                               // with experts: of each of the two matrices

  bool small() const { return tile == kSmallTokens; }
};

// "<op>_<types>_<shape>_t<tile>[_s<splits>]", unique among different specs.
std::string nameOf(const CudaSpec &spec);

// How many operands a call passes.
int64_t operandsOf(const CudaSpec &spec);

// Pieces of work of a step with at most `tokens` tokens and `rows` rows of logits: the most blocks
// that are of use.
int64_t blocksOf(const CudaSpec &spec, int64_t tokens, int64_t rows);

// Bytes of the operand `partials`, for up to kSmallTokens tokens, and of `sample` for up to `rows`
// rows of logits; 0 where the op has none.
int64_t partialBytes(const CudaSpec &spec, int64_t rows = 0);

// Bytes of the operand `counters`, for up to `rows` rows of logits; 0 where the op has none.
int64_t counterBytes(const CudaSpec &spec, int64_t rows = 0);

// In how many shares blocks read `rows` rows of weights of `columns` columns in a small step, so
// that the pieces fill the multiprocessors of a large GPU evenly.
int64_t splitsOf(int64_t rows, int64_t columns);

// Whether kernels multiply matrices of `k` columns that are stored so: bf16, codes in groups of
// 128, 64, 32 or 16 columns or, without zeros, of whole rows.
bool takenAsFragments(const WeightFormat &format, int64_t k);

// Why no kernel covers the spec ("head_dim 24 is not a multiple of 16"), or empty.
std::string unsupported(const CudaSpec &spec);

} // namespace moe::codegen

#endif
