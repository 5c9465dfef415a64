// Sizes of small vision towers, for the tests of their kernels.
#ifndef MOE_COMPILER_KERNELS_TESTTOWER_H
#define MOE_COMPILER_KERNELS_TESTTOWER_H

#include "compiler/targets/cpu/TestCpuKernel.h"
#include "dialects/moe/VisionReference.h"

namespace moe::codegen {

// Sizes that fill neither panels nor vectors, rows of a tile of which more than one block is made,
// heads that panels cut, and tiles of an odd number of rows and of an even one.
struct TestTower {
  int64_t grid, heads, headDim, tiles;

  int64_t channels() const { return heads * headDim; }
  int64_t rows() const { return grid * grid + 1; } // of a tile
};
inline const TestTower kTestTowers[] = {{4, 4, 16, 3}, {10, 3, 24, 2}, {3, 2, 88, 3}};

} // namespace moe::codegen

#endif
