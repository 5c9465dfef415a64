#include "runtime/vision/ToRgb.h"

namespace moe {

void greyToRgb(const uint8_t *from, size_t width, uint8_t *rgb) {
  for (size_t x = 0; x < width; ++x)
    for (size_t c = 0; c < 3; ++c)
      rgb[3 * x + c] = from[x];
}

void greyAndAlphaToRgb(const uint8_t *from, size_t width, uint8_t *rgb) {
  for (size_t x = 0; x < width; ++x)
    for (size_t c = 0; c < 3; ++c)
      rgb[3 * x + c] = overWhite(from[2 * x], from[2 * x + 1]);
}

void rgbAndAlphaToRgb(const uint8_t *from, size_t width, uint8_t *rgb) {
  for (size_t x = 0; x < width; ++x)
    for (size_t c = 0; c < 3; ++c)
      rgb[3 * x + c] = overWhite(from[4 * x + c], from[4 * x + 3]);
}

void invertedInksToRgb(const uint8_t *from, size_t width, uint8_t *rgb) {
  for (size_t x = 0; x < width; ++x)
    for (size_t c = 0; c < 3; ++c)
      rgb[3 * x + c] = fromInks(uint8_t(255 - from[4 * x + c]), uint8_t(255 - from[4 * x + 3]));
}

} // namespace moe
