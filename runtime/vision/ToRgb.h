// Pixels of other kinds to red, green and blue of 8 bits, one value or one row at a time. Each rule
// is exact, and the same whatever decoded the file.
#ifndef MOE_RUNTIME_VISION_TORGB_H
#define MOE_RUNTIME_VISION_TORGB_H

#include <cstddef>
#include <cstdint>

namespace moe {

// A value of opacity `alpha` over white: v·a/255 + (255 − a), rounded half up. What is transparent
// becomes white, not the colour that it hides.
constexpr uint8_t overWhite(uint8_t value, uint8_t alpha) {
  return uint8_t((2 * (value * alpha + 255 * (255 - alpha)) + 255) / 510);
}

// A value of 16 bits: its high byte, neither rounded nor cut off at 255.
constexpr uint8_t highByte(uint16_t value) { return uint8_t(value >> 8); }

// Of an ink and black, both 0 for none: (255 − c)(255 − k)/255, rounded half up.
constexpr uint8_t fromInks(uint8_t ink, uint8_t black) {
  return uint8_t((2 * (255 - ink) * (255 - black) + 255) / 510);
}

// Rows of `width` pixels; `rgb` gets 3·width bytes. `from` has for each pixel
void greyToRgb(const uint8_t *from, size_t width, uint8_t *rgb);         // one value
void greyAndAlphaToRgb(const uint8_t *from, size_t width, uint8_t *rgb); // value and alpha
void rgbAndAlphaToRgb(const uint8_t *from, size_t width, uint8_t *rgb);  // red .. alpha
void invertedInksToRgb(const uint8_t *from, size_t width, uint8_t *rgb); // 255 − cyan .. black

} // namespace moe

#endif
