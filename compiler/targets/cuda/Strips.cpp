// Cuts work into shares, and says which matrices kernels take.
#include "compiler/targets/cuda/Strips.h"
#include "llvm/Support/FormatVariadic.h"

using llvm::divideCeil;

namespace moe::codegen {

int64_t splitsOf(int64_t rows, int64_t columns) {
  int64_t best = 1;
  double bestUse = 0;
  for (int64_t splits = 1; splits <= 8 && (splits == 1 || columns / splits >= 512); splits *= 2) {
    int64_t pieces = stripsOf(rows) * splits;
    double use = double(pieces) / (divideCeil(pieces, kMultiprocessors) * kMultiprocessors);
    // The sums of a share of a strip are written and read, beside its weights.
    double weights = double(columns) / splits * kStripRows * 2;
    if (splits > 1)
      use *= weights / (weights + 2 * kStripSumBytes);
    if (use > bestUse) {
      best = splits;
      bestUse = use;
    }
  }
  return best;
}

bool takenAsFragments(const WeightFormat &f, int64_t columns) {
  if (!f.quantized())
    return f == kBf16;
  const bool blocks = f.group == 128 || (f.group >= 16 && 64 % f.group == 0);
  return blocks || (f.group == columns && f.group > 16 && !f.zeros);
}

std::string matrixRefusal(const WeightFormat &format, int64_t columns) {
  if (takenAsFragments(format, columns))
    return "";
  return llvm::formatv(
      "a matrix is stored as {0}, and the kernels for GPUs take bf16, codes in groups of 128, 64, "
      "32 or 16 columns or, without zeros, codes in groups of whole rows",
      nameOf(format));
}

std::string expertsRefusal(const WeightFormat &shared, const WeightFormat &routed, int64_t columns,
                           int64_t experts, int64_t k) {
  if (experts && k != 1)
    return llvm::formatv("a token has {0} experts, and the kernels for GPUs take one", k);
  std::string why = matrixRefusal(shared, columns);
  return why.empty() && experts ? matrixRefusal(routed, columns) : why;
}

std::string tileName(int64_t tile, int64_t splits) {
  std::string name = "_t" + std::to_string(tile);
  return splits > 1 ? name + "_s" + std::to_string(splits) : name;
}

} // namespace moe::codegen
