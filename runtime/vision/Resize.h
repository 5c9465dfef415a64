// Resizes pictures: bilinear, with antialias, to the byte what torchvision makes of uint8 on a CPU.
#ifndef MOE_RUNTIME_VISION_RESIZE_H
#define MOE_RUNTIME_VISION_RESIZE_H

#include "runtime/vision/Picture.h"

namespace moe {

// What each of the samples of a longer or shorter row is made of.
struct ResizeFilter {
  int32_t taps = 0;             // of each output, at most
  int32_t shift = 0;            // weights are fractions of 2^shift
  std::vector<int32_t> first;   // [to]: the first input
  std::vector<int32_t> count;   // [to]: how many, at most `taps`
  std::vector<int16_t> weights; // [to, taps], none negative; zeros after `count`
};

// From `from` samples to `to`, both positive.
ResizeFilter resizeFilter(int32_t from, int32_t to);

// The columns first, which gives bytes, then the rows; a side that keeps its length is left alone.
// `picture` must have as many bytes as it should, and the new sides must be positive.
Picture resize(const PictureView &picture, int32_t height, int32_t width);

} // namespace moe

#endif
