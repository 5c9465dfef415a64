#include "runtime/vision/Tiles.h"

#include "runtime/vision/Resize.h"

#include <algorithm>

namespace moe {

Result<Tiles> cutTiles(const PictureView &picture, const VisionFormat &format, int32_t maxTiles) {
  MOE_TRY(checkPicture(picture));
  if (maxTiles < 0 || maxTiles > format.maxTiles)
    return Error{Code::InvalidArgument, "a picture can be cut into 1 to " +
                                            std::to_string(format.maxTiles) + " tiles, not " +
                                            std::to_string(maxTiles)};
  const PictureSize size{picture.height, picture.width};
  const int32_t side = format.tile;
  Tiles tiles;
  tiles.grid = chooseGrid(size, side, maxTiles == 0 ? format.maxTiles : maxTiles);
  tiles.side = side;
  const size_t tileRow = size_t(side) * 3, tileBytes = tileRow * size_t(side);
  tiles.pixels.resize(size_t(tiles.count()) * tileBytes);

  const PictureSize fitted = fitToGrid(size, tiles.grid, side);
  const Picture small = resize(picture, fitted.height, fitted.width);
  const size_t row = size_t(small.width) * 3;
  for (size_t y = 0; y < size_t(small.height); ++y)
    for (size_t x = 0; x < row; x += tileRow) {
      const size_t tile = y / size_t(side) * size_t(tiles.grid.columns) + x / tileRow;
      std::copy_n(&small.rgb[y * row + x], std::min(tileRow, row - x),
                  &tiles.pixels[tile * tileBytes + y % size_t(side) * tileRow]);
    }
  if (tiles.grid.count() > 1) {
    const Picture whole = resize(picture, side, side);
    std::copy(whole.rgb.begin(), whole.rgb.end(), tiles.pixels.end() - ptrdiff_t(tileBytes));
  }
  return tiles;
}

std::vector<int32_t> imageTokens(Grid grid, const VisionFormat &format) {
  std::vector<int32_t> tokens;
  tokens.reserve(size_t(imageTokenCount(grid, format)));
  const auto addTile = [&] {
    tokens.insert(tokens.end(), size_t(format.rowsPerTile), format.patch);
  };
  tokens.push_back(format.imageStart);
  if (grid.count() > 1)
    for (int32_t row = 0; row < grid.rows; ++row)
      for (int32_t column = 0; column < grid.columns; ++column) {
        addTile();
        const bool last = column + 1 == grid.columns;
        tokens.push_back(last ? format.tileYSeparator : format.tileXSeparator);
      }
  tokens.push_back(format.image);
  addTile();
  tokens.push_back(format.imageEnd);
  return tokens;
}

int64_t imageTokenCount(Grid grid, const VisionFormat &format) {
  const int64_t tiles = grid.count() > 1 ? grid.count() : 0;
  return (tiles + 1) * format.rowsPerTile + tiles + 3;
}

} // namespace moe
