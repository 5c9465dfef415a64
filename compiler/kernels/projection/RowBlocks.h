// How the CPU kernels of a vision tower multiply many rows with a weight.
#ifndef MOE_COMPILER_KERNELS_PROJECTION_ROWBLOCKS_H
#define MOE_COMPILER_KERNELS_PROJECTION_ROWBLOCKS_H

#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

// A worker makes the sums of a block of rows with some neighbouring panels, and then what becomes
// of them. A step of a tower has many rows, so that blocks come before panels: those of about 640
// rows, which the last-level cache holds, take one group of panels after the other.
class RowBlocks {
public:
  // `rowsOf`: of a target. Whole tiles of every target's.
  static int64_t rowsOf(const CpuTarget &target) { return target.amx ? 96 : 48; }

  // x: rows of `row`. `panels`: neighbouring panels of a group.
  RowBlocks(CpuKernel &k, const ActivationRow &row, int64_t outputs, int64_t panels);

  int64_t width() const { return groupPanels * kPanel; } // of sums, in channels
  int64_t groups() const { return llvm::divideCeil(allPanels, groupPanels); }

  // Of `rows` rows: finish(first row, count, group, sums), with sums of float32 [count][width()].
  // Those of panels that a last group has not are undefined. Workers claim blocks by the kernel's
  // Counters.
  void run(Ptr x, Val rows, Ptr weight, llvm::function_ref<void(Val, Val, Val, Ptr)> finish);

private:
  void multiply(Ptr x, Val count, Ptr panel, Ptr sums, const Turn &turn);

  CpuKernel &k;
  const ActivationRow row;
  const int64_t allPanels, groupPanels;
  const int64_t blockRows = rowsOf(k.target), together = llvm::divideCeil(640, blockRows); // blocks
  Ptr sums = k.scratch(blockRows * groupPanels * kPanel * 4), ids = k.scratch(blockRows * 4);
};

// A copy of float32 values with zeros up to a multiple of the width, so that vectors need no tails.
Ptr paddedCopy(CpuKernel &k, Ptr from, int64_t n, int64_t width);

} // namespace moe::codegen

#endif
