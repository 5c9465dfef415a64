// Names, launches and buffers of the kernels.
#include "compiler/targets/cuda/CudaSpec.h"
#include "compiler/kernels/attention/AttentionLayout.h"
#include "llvm/Support/FormatVariadic.h"

using llvm::divideCeil;

namespace moe::codegen {

namespace {

template <class... Cases> struct Overloaded : Cases... {
  using Cases::operator()...;
};

std::string heads(const FinishSpec &f) {
  std::string text = llvm::formatv("{0}_{1}x{2}x{3}", nameOf(f.cache.storage), f.heads,
                                   f.cache.heads, f.cache.headDim);
  if (f.cache.chunk)
    text += llvm::formatv("_chunk{0}", f.cache.chunk);
  // Of pools with different layers the pages differ.
  text += llvm::formatv("_page{0}", f.cache.pageBytes);
  return text;
}
// A number in a name, where a point and a sign may not be.
std::string number(float value) {
  return llvm::utohexstr(std::bit_cast<uint32_t>(value), /*LowerCase=*/true);
}
std::string finishing(const FinishSpec &f) {
  std::string text = f.rope ? "_rope" : "";
  if (f.qkNorm)
    text += "_norm" + number(*f.qkNorm);
  if (f.temperature)
    text += "_temp" + number(f.temperature->first) + "_" + number(f.temperature->second);
  if (f.sumSplits > 1)
    text += llvm::formatv("_sums{0}", f.sumSplits);
  return text;
}
// Of the shared expert's weight, or the dense one, and of the routed experts'.
template <class Spec> std::string formats(const Spec &s) {
  std::string name = nameOf(s.shared);
  return s.experts && s.shared != s.routed ? name + "_" + nameOf(s.routed) : name;
}
std::string experts(int64_t count, int64_t k) {
  return count ? llvm::formatv("_e{0}k{1}", count, k).str() : "";
}

} // namespace

std::string nameOf(const CudaSpec &spec) {
  std::string name = std::visit(
      Overloaded{
          [](const EmbedSpec &s) -> std::string {
            return llvm::formatv("embed_{0}_{1}", nameOf(s.format), s.hidden);
          },
          [](const RopeTableSpec &s) -> std::string {
            uint64_t hash = 0xcbf29ce484222325; // FNV-1a
            for (float f : s.frequencies)
              hash = (hash ^ std::bit_cast<uint32_t>(f)) * 0x100000001b3;
            return llvm::formatv("rope_table_{0}_{1:x-}", s.frequencies.size(), hash);
          },
          [](const CudaQkvSpec &s) -> std::string {
            return llvm::formatv("qkv_{0}_{1}x{2}_eps{3}", nameOf(s.format), s.rows, s.hidden,
                                 number(s.eps));
          },
          [](const CudaAttentionSpec &s) -> std::string {
            return "attention_" + heads(s.finish) + finishing(s.finish);
          },
          [](const LinearResidualSpec &s) -> std::string {
            return llvm::formatv("linear_residual_{0}_{1}x{2}", nameOf(s.format), s.outputs,
                                 s.inputs);
          },
          [](const GateUpSpec &s) -> std::string {
            return llvm::formatv("gate_up_{0}_{1}x{2}{3}_eps{4}", formats(s), s.width, s.hidden,
                                 experts(s.experts, s.k), number(s.eps));
          },
          [](const DownSpec &s) -> std::string {
            return llvm::formatv("down_{0}_{1}x{2}{3}", formats(s), s.hidden, s.width,
                                 experts(s.experts, s.k));
          },
          [&](const HeadSpec &s) -> std::string {
            std::string name =
                llvm::formatv("head_{0}_{1}x{2}", nameOf(s.format), s.vocabulary, s.hidden);
            return spec.small() ? name + "_eps" + number(s.eps) : name;
          },
          [](const NormSpec &s) -> std::string {
            return llvm::formatv("norm_{0}_{1}{2}_eps{3}", nameOf(s.storage), s.hidden,
                                 s.gather ? "_rows" : "", number(s.eps));
          },
          [](const LinearSpec &s) -> std::string {
            return llvm::formatv("linear_{0}_{1}x{2}", nameOf(s.format), s.outputs, s.inputs);
          },
          [](const FinishSpec &s) -> std::string { return "finish_" + heads(s) + finishing(s); },
          [](const RouterSpec &s) -> std::string {
            return llvm::formatv("router_{0}_{1}_e{2}_eps{3}", nameOf(s.storage), s.hidden,
                                 s.experts, number(s.eps));
          },
          [](const SampleSpec &s) -> std::string {
            return llvm::formatv("sample_{0}", s.vocabulary);
          },
      },
      spec.op);
  std::replace(name.begin(), name.end(), '-', '_'); // which PTX has no names with
  name += "_t" + std::to_string(spec.tile);
  if (spec.splits > 1)
    name += "_s" + std::to_string(spec.splits);
  return name;
}

int64_t operandsOf(const CudaSpec &spec) {
  bool small = spec.small();
  return std::visit(
      Overloaded{
          [](const EmbedSpec &) -> int64_t { return 3; },
          [](const RopeTableSpec &) -> int64_t { return 2; },
          [](const CudaQkvSpec &) -> int64_t { return 4; },
          [&](const CudaAttentionSpec &s) -> int64_t { return small ? 8 + s.finish.rope : 6; },
          [&](const LinearResidualSpec &) -> int64_t { return small ? 5 : 3; },
          [&](const GateUpSpec &s) -> int64_t {
            return small ? (s.experts ? 9 : 4) : (s.experts ? 7 : 3);
          },
          [&](const DownSpec &s) -> int64_t {
            return small ? (s.experts ? 7 : 5) : (s.experts ? 6 : 3);
          },
          [&](const HeadSpec &) -> int64_t { return small ? 8 : 6; },
          [](const NormSpec &s) -> int64_t { return s.gather ? 4 : 3; },
          [](const LinearSpec &) -> int64_t { return 3; },
          [](const FinishSpec &s) -> int64_t { return 6 + s.rope; },
          [](const RouterSpec &) -> int64_t { return 9; },
          [](const SampleSpec &) -> int64_t { return 5; },
      },
      spec.op);
}

static int64_t shares(const CudaSpec &spec, const DownSpec &s) {
  return spec.splits * (s.experts ? 2 : 1);
}
static int64_t strips(int64_t rows) { return divideCeil(rows, kStripRows); }
// Strips of gate and up: eight channels of each.
static int64_t gateUpStrips(int64_t width) { return divideCeil(width, kStripRows / 2); }
// Tiles of 128 rows.
static int64_t rowTiles(int64_t strips) { return divideCeil(strips, 8); }

// Of a token: query heads that a block attends with together.
static int64_t headPieces(const CudaSpec &spec, const CudaAttentionSpec &s) {
  int64_t group = s.finish.heads / s.finish.cache.heads;
  return s.finish.heads /
         headsTogether(group, spec.small() ? fusedRows(s.finish.cache.headDim) : kTiledRows);
}

int64_t blocksOf(const CudaSpec &spec, int64_t tokens, int64_t rows) {
  auto tiles = [&](int64_t n) { return divideCeil(n, spec.tile); };
  // Groups of the tokens of an expert, each cut into tiles.
  auto groups = [&](int64_t experts) { return std::min(experts, tokens) + tokens / spec.tile; };
  bool small = spec.small();
  return std::visit(
      Overloaded{
          [&](const EmbedSpec &) -> int64_t { return tokens; },
          [&](const RopeTableSpec &) -> int64_t { return tokens; },
          [&](const CudaQkvSpec &s) -> int64_t { return strips(s.rows) * spec.splits; },
          [&](const CudaAttentionSpec &s) -> int64_t {
            return tokens * headPieces(spec, s) * spec.splits;
          },
          [&](const LinearResidualSpec &s) -> int64_t {
            return small ? strips(s.outputs) * spec.splits
                         : rowTiles(strips(s.outputs)) * tiles(tokens);
          },
          [&](const GateUpSpec &s) -> int64_t {
            int64_t one = gateUpStrips(s.width);
            if (small)
              return one * (1 + std::min(s.experts, tokens));
            return rowTiles(one) * (tiles(tokens) + (s.experts ? groups(s.experts) : 0));
          },
          [&](const DownSpec &s) -> int64_t {
            if (small)
              return strips(s.hidden) * shares(spec, s);
            return rowTiles(strips(s.hidden)) * (s.experts ? groups(s.experts) : tiles(tokens));
          },
          [&](const HeadSpec &s) -> int64_t {
            return small ? strips(s.vocabulary) : rowTiles(strips(s.vocabulary)) * tiles(rows);
          },
          [&](const NormSpec &s) -> int64_t { return s.gather ? rows : tokens; },
          [&](const LinearSpec &s) -> int64_t {
            return rowTiles(strips(s.outputs)) * tiles(tokens);
          },
          [&](const FinishSpec &s) -> int64_t {
            return divideCeil(tokens * (s.heads + 2 * s.cache.heads), 8); // a head for each warp
          },
          [&](const RouterSpec &) -> int64_t { return tokens; },
          [&](const SampleSpec &) -> int64_t {
            return std::max(std::min(rows, kSharedRows) * kSampleBlocks, rows);
          },
      },
      spec.op);
}

int64_t partialBytes(const CudaSpec &spec, int64_t rows) {
  int64_t sums = kStripRows * kSmallTokens * 4; // of a strip
  return std::visit(
      Overloaded{
          [&](const LinearResidualSpec &s) -> int64_t {
            return strips(s.outputs) * spec.splits * sums;
          },
          [&](const DownSpec &s) -> int64_t { return strips(s.hidden) * shares(spec, s) * sums; },
          [&](const CudaAttentionSpec &s) -> int64_t {
            return kSmallTokens * s.finish.heads * spec.splits * (s.finish.cache.headDim + 2) * 4;
          },
          [&](const SampleSpec &) -> int64_t {
            return 16 * kSampleWarps * std::max(std::min(rows, kSharedRows) * kSampleBlocks, rows);
          },
          [](const auto &) -> int64_t { return 0; },
      },
      spec.op);
}

int64_t counterBytes(const CudaSpec &spec, int64_t rows) {
  return std::visit(
      Overloaded{
          [&](const LinearResidualSpec &s) -> int64_t { return strips(s.outputs) * 4; },
          [&](const DownSpec &s) -> int64_t { return strips(s.hidden) * 4; },
          [&](const CudaAttentionSpec &s) -> int64_t {
            return kSmallTokens * headPieces(spec, s) * 4;
          },
          [](const GateUpSpec &) -> int64_t { return 8; },
          [](const RouterSpec &) -> int64_t { return 4; },
          [&](const HeadSpec &) -> int64_t { return 8 + rows * 8; },
          [&](const SampleSpec &) -> int64_t {
            return kSharedRows * 4 + std::min(rows, kSharedRows) * kSampleHistogramBytes;
          },
          [](const auto &) -> int64_t { return 0; },
      },
      spec.op);
}

int64_t splitsOf(int64_t rows, int64_t columns) {
  int64_t best = 1;
  double bestUse = 0;
  for (int64_t splits = 1; splits <= 8 && (splits == 1 || columns / splits >= 512); splits *= 2) {
    int64_t pieces = strips(rows) * splits;
    double use = double(pieces) / (divideCeil(pieces, kMultiprocessors) * kMultiprocessors);
    // The sums of a share of a strip are written and read, beside its weights.
    double weights = double(columns) / splits * kStripRows * 2;
    if (splits > 1)
      use *= weights / (weights + 2 * kStripRows * kSmallTokens * 4);
    if (use > bestUse) {
      best = splits;
      bestUse = use;
    }
  }
  return best;
}

bool takenAsFragments(const WeightFormat &f, int64_t k) {
  if (!f.quantized())
    return f == kBf16;
  const bool blocks = f.group == 128 || (f.group >= 16 && 64 % f.group == 0);
  return blocks || (f.group == k && f.group > 16 && !f.zeros);
}

std::string unsupported(const CudaSpec &spec) {
  auto oneExpert = [](int64_t experts, int64_t k) -> std::string {
    return experts && k != 1
               ? llvm::formatv("a token has {0} experts, and the kernels for GPUs take one", k)
               : std::string();
  };
  auto finish = [](const FinishSpec &f) -> std::string {
    if (f.cache.headDim % 16 || f.cache.headDim > 256)
      return llvm::formatv("head_dim is {0}, and the kernels for GPUs take multiples of 16 up to "
                           "256",
                           f.cache.headDim);
    if (f.cache.storage != Storage::F16 && f.cache.storage != Storage::BF16)
      return std::string("the caches of GPUs keep 16-bit floats, not ") + nameOf(f.cache.storage);
    return "";
  };
  // Of a matrix of so many columns.
  auto matrix = [](const WeightFormat &f, int64_t columns) -> std::string {
    if (takenAsFragments(f, columns))
      return "";
    return llvm::formatv(
        "a matrix is stored as {0}, and the kernels for GPUs take bf16, codes in groups of 128, "
        "64, 32 or 16 columns or, without zeros, codes in groups of whole rows",
        nameOf(f));
  };
  auto experts = [&](const auto &s, int64_t columns) {
    std::string why = oneExpert(s.experts, s.k);
    if (why.empty())
      why = matrix(s.shared, columns);
    if (why.empty() && s.experts)
      why = matrix(s.routed, columns);
    return why;
  };
  return std::visit(Overloaded{
                        [&](const GateUpSpec &s) { return experts(s, s.hidden); },
                        [&](const DownSpec &s) { return experts(s, s.width); },
                        [&](const CudaQkvSpec &s) { return matrix(s.format, s.hidden); },
                        [&](const LinearResidualSpec &s) { return matrix(s.format, s.inputs); },
                        [&](const LinearSpec &s) { return matrix(s.format, s.inputs); },
                        [&](const HeadSpec &s) { return matrix(s.format, s.hidden); },
                        [&](const CudaAttentionSpec &s) { return finish(s.finish); },
                        [&](const FinishSpec &s) { return finish(s); },
                        [](const RouterSpec &r) -> std::string {
                          if (r.experts > 256 || r.hidden > 32768)
                            return llvm::formatv(
                                "{0} experts of {1} channels, and the router's kernel takes at "
                                "most 256 of 32768",
                                r.experts, r.hidden);
                          return "";
                        },
                        [](const auto &) { return std::string(); },
                    },
                    spec.op);
}

} // namespace moe::codegen
