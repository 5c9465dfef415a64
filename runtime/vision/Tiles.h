// From a picture to what the model reads: tiles of pixels, and the tokens that stand for them.
#ifndef MOE_RUNTIME_VISION_TILES_H
#define MOE_RUNTIME_VISION_TILES_H

#include "runtime/vision/Grid.h"
#include "runtime/vision/Picture.h"

#include <cstddef>

namespace moe {

// How a model sees. All but the ids is positive.
struct VisionFormat {
  int32_t tile = 336;        // pixels of a tile's side
  int32_t rowsPerTile = 144; // embeddings that one tile becomes
  int32_t maxTiles = 16;     // of a picture, without the one of the whole

  // Ids of tokens; -1: not known.
  int32_t imageStart = -1, imageEnd = -1;
  int32_t tileXSeparator = -1, tileYSeparator = -1;
  int32_t image = -1; // before the tile of the whole
  int32_t patch = -1; // one for each embedding
};

// A picture as the model's first kernel reads it. The picture lies in the upper left of its grid's
// canvas, on black, which is cut row by row; where the grid has several tiles the whole picture,
// squeezed into one, follows as the last.
struct Tiles {
  Grid grid;
  int32_t side = 0;            // pixels
  std::vector<uint8_t> pixels; // [count(), side, side, 3]

  int32_t count() const { return grid.count() > 1 ? grid.count() + 1 : 1; }
};

// The bytes that transformers' image processor normalises. `maxTiles`: fewer than the format's, for
// less detail (1: the whole in one tile); 0: as many. Error: InvalidArgument for a picture that is
// no picture.
Result<Tiles> cutTiles(const PictureView &picture, const VisionFormat &format,
                       int32_t maxTiles = 0);

// The tokens of a picture of that grid, in the order of its tiles: start; after each tile of a row
// a tile_x separator, after its last one tile_y; image, the tile of the whole, end. One tile alone
// has no separators.
std::vector<int32_t> imageTokens(Grid grid, const VisionFormat &format);
int64_t imageTokenCount(Grid grid, const VisionFormat &format);

} // namespace moe

#endif
