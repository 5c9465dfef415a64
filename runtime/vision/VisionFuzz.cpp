// Cuts arbitrary pictures into tiles: a file that may be a PPM one, or a size and bytes that are
// repeated until they fill it. The first bytes say which, and how the model sees.
#include "runtime/vision/Ppm.h"
#include "runtime/vision/Tiles.h"

#include <cstdlib>

using namespace moe;

namespace {

void cut(const PictureView &picture, const VisionFormat &format, int32_t maxTiles) {
  const Result<Tiles> tiles = cutTiles(picture, format, maxTiles);
  if (!tiles)
    return;
  const size_t side = size_t(format.tile);
  if (tiles->grid.count() > format.maxTiles ||
      tiles->pixels.size() != size_t(tiles->count()) * side * side * 3)
    std::abort();
  const std::vector<int32_t> tokens = imageTokens(tiles->grid, format);
  if (int64_t(tokens.size()) != imageTokenCount(tiles->grid, format))
    std::abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 8)
    return 0;
  VisionFormat format;
  format.tile = 1 + data[0] % 64;
  format.rowsPerTile = 1 + data[1] % 8;
  format.maxTiles = 1 + data[2] % 20;
  const int32_t maxTiles = data[3] % 24 - 1;
  const std::span rest(data + 8, size - 8);
  if (data[0] >= 128) {
    const auto picture = readPpmFrame(std::as_bytes(rest));
    if (picture && *picture)
      cut((*picture)->picture, format, maxTiles);
    return 0;
  }
  // Up to 512 pixels a side, or up to 16384 where the other one is short.
  int32_t width = data[4] + 256 * (data[5] % 2), height = data[6] + 256 * (data[7] % 2);
  if (data[5] >= 128)
    width *= 32, height %= 8;
  Picture picture{width, height, std::vector<uint8_t>(size_t(width) * size_t(height) * 3)};
  for (size_t i = 0; i < picture.rgb.size() && !rest.empty(); ++i)
    picture.rgb[i] = rest[i % rest.size()];
  cut(picture, format, maxTiles);
  return 0;
}
