// Compiled with -ffp-contract=off: each operation rounds, as it does where these numbers come from.
#include "runtime/vision/Resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace moe {
namespace {

constexpr size_t kRows = 16;   // that are resized together
constexpr size_t kValues = 32; // of a row that are summed together

uint8_t toByte(int32_t sum, int32_t shift) { return uint8_t(std::clamp(sum >> shift, 0, 255)); }

// Sums of products with the weights of one output, of N inputs that lie side by side. The inputs of
// the next weight are `stride` bytes further.
template <size_t N>
void weigh(const uint8_t *from, size_t stride, const int16_t *weights, int32_t count, int32_t shift,
           uint8_t *to) {
  int32_t sums[N];
  for (int32_t &sum : sums)
    sum = 1 << (shift - 1);
  for (int32_t tap = 0; tap < count; ++tap, from += stride)
    for (size_t i = 0; i < N; ++i)
      sums[i] += from[i] * weights[tap];
  for (size_t i = 0; i < N; ++i)
    to[i] = toByte(sums[i], shift);
}

// Along the rows. What is next to each other in memory has other weights, so `kRows` rows are laid
// beside each other first.
void resizeColumns(const PictureView &picture, const ResizeFilter &filter, Picture &out) {
  const size_t from = size_t(picture.width) * 3, to = size_t(out.width) * 3;
  std::vector<uint8_t> before(from * kRows), after(to * kRows); // [values of a row, kRows]
  for (size_t top = 0; top < size_t(out.height); top += kRows) {
    const size_t rows = std::min(kRows, size_t(out.height) - top);
    for (size_t i = 0; i < from; ++i)
      for (size_t row = 0; row < rows; ++row)
        before[i * kRows + row] = picture.rgb[(top + row) * from + i];
    for (size_t x = 0; x < size_t(out.width); ++x)
      weigh<3 * kRows>(&before[size_t(filter.first[x]) * 3 * kRows], 3 * kRows,
                       &filter.weights[x * size_t(filter.taps)], filter.count[x], filter.shift,
                       &after[x * 3 * kRows]);
    for (size_t row = 0; row < rows; ++row)
      for (size_t i = 0; i < to; ++i)
        out.rgb[(top + row) * to + i] = after[i * kRows + row];
  }
}

// Along the columns: all values of a row have the same weights.
void resizeRows(const PictureView &picture, const ResizeFilter &filter, Picture &out) {
  const size_t row = size_t(picture.width) * 3;
  for (size_t y = 0; y < size_t(out.height); ++y) {
    const uint8_t *from = &picture.rgb[size_t(filter.first[y]) * row];
    const int16_t *weights = &filter.weights[y * size_t(filter.taps)];
    uint8_t *to = &out.rgb[y * row];
    size_t x = 0;
    for (; x + kValues <= row; x += kValues)
      weigh<kValues>(from + x, row, weights, filter.count[y], filter.shift, to + x);
    for (; x < row; ++x)
      weigh<1>(from + x, row, weights, filter.count[y], filter.shift, to + x);
  }
}

Picture blank(int32_t height, int32_t width) {
  return {width, height, std::vector<uint8_t>(size_t(height) * size_t(width) * 3)};
}

} // namespace

// ATen/native/cpu/UpSampleKernel.cpp, as it is compiled for x86-64 with AVX2 and for aarch64: a
// triangle as wide as two inputs or two outputs, whichever is more; its weights are rounded to the
// largest fractions that fit 16 bits with their sign.
ResizeFilter resizeFilter(int32_t from, int32_t to) {
  const double scale = double(from) / to;
  const double support = std::max(scale, 1.0), inverse = 1 / support;
  ResizeFilter filter;
  filter.taps = 2 * int32_t(std::ceil(support)) + 1;
  filter.first.resize(size_t(to));
  filter.count.resize(size_t(to));
  std::vector<double> exact(size_t(to) * size_t(filter.taps));
  double largest = 0;
  for (int32_t i = 0; i < to; ++i) {
    const double center = scale * (i + 0.5);
    const int32_t first = std::max(int32_t(center - support + 0.5), 0);
    const int32_t end = std::min(int32_t(center + support + 0.5), from);
    const std::span weights(&exact[size_t(i) * size_t(filter.taps)], size_t(end - first));
    double total = 0;
    for (int32_t j = first; j < end; ++j) {
      const double weight = std::max(0.0, 1 - std::abs((j - center + 0.5) * inverse));
      total += weights[size_t(j - first)] = weight;
    }
    for (double &weight : weights) {
      weight /= total;
      largest = std::max(largest, weight);
    }
    filter.first[size_t(i)] = first;
    filter.count[size_t(i)] = end - first;
  }
  const auto fits = [&](int32_t shift) { return int32_t(0.5 + largest * (1 << shift)) < 1 << 15; };
  while (filter.shift < 22 && fits(filter.shift + 1))
    ++filter.shift;
  filter.weights.resize(exact.size());
  std::transform(exact.begin(), exact.end(), filter.weights.begin(),
                 [&](double weight) { return int16_t(0.5 + weight * (1 << filter.shift)); });
  return filter;
}

Picture resize(const PictureView &picture, int32_t height, int32_t width) {
  Picture wide;
  PictureView from = picture;
  if (width != picture.width) {
    wide = blank(picture.height, width);
    resizeColumns(picture, resizeFilter(picture.width, width), wide);
    from = wide;
  }
  if (height != from.height) {
    Picture out = blank(height, width);
    resizeRows(from, resizeFilter(from.height, height), out);
    return out;
  }
  if (width == picture.width)
    wide = {width, height, {picture.rgb.begin(), picture.rgb.end()}};
  return wide;
}

} // namespace moe
