// Compiled with -ffp-contract=off: each operation rounds, as it does where these numbers come from.
#include "runtime/vision/Grid.h"

#include <algorithm>
#include <cmath>

namespace moe {

Grid chooseGrid(PictureSize picture, int32_t tile, int32_t maxTiles) {
  Grid best;
  float bestScale = 0;
  for (int32_t rows = 1; rows <= maxTiles; ++rows)
    for (int32_t columns = 1; rows * columns <= maxTiles; ++columns) {
      const Grid grid{rows, columns};
      const float scale = std::min(float(tile * rows) / float(picture.height),
                                   float(tile * columns) / float(picture.width));
      const bool enlarges = scale >= 1, bestEnlarges = bestScale >= 1;
      const bool better = enlarges != bestEnlarges ? enlarges
                          : scale != bestScale ? (enlarges ? scale < bestScale : scale > bestScale)
                                               : grid.count() < best.count();
      if (better) {
        best = grid;
        bestScale = scale;
      }
    }
  return best;
}

namespace {

// One side of the picture: how long it may become, and the factor that makes it so. The reference
// has the canvas in float32 and the picture's side as an exact number, and its `min` hands on one
// or the other: the factor is a float32 where the canvas cuts, else a float64.
struct Side {
  int32_t length, target;
  bool isCut;
  double factor;

  Side(int32_t length, int32_t canvas, int32_t tile)
      : length(length), target(std::min(std::max(length, tile), canvas)),
        isCut(std::max(length, tile) > canvas),
        factor(isCut ? double(float(target) / float(length)) : double(target) / length) {}

  // This side, with the factor of the other one.
  int32_t scaledAs(const Side &other) const {
    const double scaled =
        other.isCut ? double(float(length) * float(other.factor)) : double(length) * other.factor;
    return std::max(1, std::min(int32_t(std::floor(scaled)), target));
  }
};

} // namespace

PictureSize fitToGrid(PictureSize picture, Grid grid, int32_t tile) {
  const Side height(picture.height, grid.rows * tile, tile);
  const Side width(picture.width, grid.columns * tile, tile);
  const bool widthDecides = height.isCut || width.isCut ? float(width.factor) < float(height.factor)
                                                        : width.factor < height.factor;
  if (widthDecides)
    return {height.scaledAs(width), width.target};
  return {height.target, width.scaledAs(height)};
}

} // namespace moe
