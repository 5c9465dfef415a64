// Into how many tiles a picture is cut, and what size it has then. As transformers' Llama 4 image
// processor chooses (get_best_fit, get_max_res_without_distortion), to the last pixel.
#ifndef MOE_RUNTIME_VISION_GRID_H
#define MOE_RUNTIME_VISION_GRID_H

#include <cstdint>

namespace moe {

struct Grid {
  int32_t rows = 1, columns = 1; // of tiles

  int32_t count() const { return rows * columns; }
  bool operator==(const Grid &) const = default;
};

struct PictureSize {
  int32_t height = 0, width = 0; // pixels
  bool operator==(const PictureSize &) const = default;
};

// The grid of at most `maxTiles` (1 or more) tiles of `tile` x `tile` pixels whose canvas lets the
// picture be enlarged the least or, where it does not fit any, shrunk the least.
Grid chooseGrid(PictureSize picture, int32_t tile, int32_t maxTiles);

// The size of the picture in the canvas of that grid: its shape is kept, and no side becomes longer
// than it was or than a tile. At least one pixel a side.
PictureSize fitToGrid(PictureSize picture, Grid grid, int32_t tile);

} // namespace moe

#endif
