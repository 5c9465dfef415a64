// Packing of codes: rows are read as blocks of whole groups, each group is quantized, or its codes
// are recovered where the checkpoint has them, and put where Packing.h wants them. The places of a
// row's group are a few bytes of each unit of columns, and those of 64 rows make up the unit, so a
// block of 64 rows by 1024 columns is written within the cache.
#include "compiler/plan/Pack.h"

#include "llvm/ADT/STLExtras.h"

#include <cmath>
#include <cstdio>
#include <cstring>

using namespace llvm;
using namespace moe;

namespace {

constexpr int64_t kLanes = PackedGeometry::panelLanes;
constexpr int64_t kBlockCols = 1024;
constexpr int64_t kStripCols = 64;          // least, of strips
constexpr int64_t kBlockElements = 1 << 17; // of strips, but 64 rows at least

Error fail(const Twine &message) { return createStringError(inconvertibleErrorCode(), message); }

std::string number(float value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", double(value));
  return text;
}

} // namespace

struct Packer::CodeScratch {
  int64_t origin; // of the piece, in bytes of the weight
  std::vector<float> block, strips, scales, zeros;
  std::vector<uint8_t> codes; // of a group, with room for a last unit
};

Error Packer::packCodes(int64_t index, MutableArrayRef<char> out) const {
  const Piece at = piece(index);
  std::memset(out.data(), 0, out.size()); // codes are added by bits; padding rows have scales of 0
  SmallVector<Segment> parts;
  if (geometry.panels) {
    const int64_t first = at.offset / geometry.panelBytes();
    for (int64_t p = first; p < first + at.bytes / geometry.panelBytes(); ++p)
      segments(p / geometry.panels, p % geometry.panels, parts);
    sort(parts, [](const Segment &a, const Segment &b) { return a.row < b.row; });
  } else {
    parts.push_back({at.offset / geometry.rowBytes(), at.bytes / geometry.rowBytes(), 0, 0});
  }

  const int64_t group = geometry.format.group;
  const int64_t blockCols = group * std::max<int64_t>(1, kBlockCols / group);
  char *start = out.data();
  CodeScratch scratch{at.offset, {}, {}, {}, {}, {}};
  scratch.codes.resize(alignTo(group, 4), 0);
  for (size_t begin = 0, end; begin < parts.size(); begin = end) {
    int64_t count = parts[begin].count; // of neighbours, read together
    for (end = begin + 1; end < parts.size() && parts[end].row == parts[begin].row + count; ++end)
      count += parts[end].count;
    Error error =
        forBands(parts[begin].row, count, [&](int64_t row, int64_t rows, bool strips) -> Error {
          if (strips)
            return codeStrips(row, rows, start, scratch);
          for (int64_t r = row; r < row + rows; r += kLanes)
            for (int64_t c = 0; c < geometry.cols; c += blockCols) {
              const int64_t cols = std::min(blockCols, geometry.cols - c);
              scratch.block.resize(cols);
              for (int64_t i = r; i < std::min(r + kLanes, row + rows); ++i) {
                if (Error error = gather(sources, i * geometry.cols + c, scratch.block))
                  return error;
                if (Error error = codeRow(i, c, scratch.block, start, scratch))
                  return error;
              }
            }
          return Error::success();
        });
    if (error)
      return error;
  }
  return Error::success();
}

// As forStrips, and the blocks are turned.
Error Packer::codeStrips(int64_t row, int64_t count, char *out, CodeScratch &scratch) const {
  const Source &source = sourceOf(sources, row * geometry.cols);
  const unsigned dims = source.shape.size() - 2;
  const int64_t local = row - source.begin / geometry.cols;
  const int64_t base = source.place(local / source.rows, dims) + local % source.rows;
  const int64_t group = geometry.format.group;
  const int64_t blockCols = group * divideCeil(std::min(kStripCols, geometry.cols), group);
  const int64_t blockRows = std::clamp<int64_t>(kBlockElements / blockCols, kLanes, 1024);
  for (int64_t r = 0; r < count; r += blockRows)
    for (int64_t c = 0; c < geometry.cols; c += blockCols) {
      const int64_t rows = std::min(blockRows, count - r);
      const int64_t cols = std::min(blockCols, geometry.cols - c);
      const int64_t stride = cols + 16; // a power of two would put all rows into one set of a cache
      scratch.strips.resize(rows * cols);
      scratch.block.resize(rows * stride);
      for (int64_t i = 0; i < cols; ++i)
        if (Error error = read(source, base + (c + i) * source.strides[dims] + r,
                               MutableArrayRef(scratch.strips).slice(i * rows, rows)))
          return error;
      for (int64_t i0 = 0; i0 < cols; i0 += 16)
        for (int64_t j = 0; j < rows; ++j)
          for (int64_t i = i0; i < std::min(i0 + 16, cols); ++i)
            scratch.block[j * stride + i] = scratch.strips[i * rows + j];
      for (int64_t j = 0; j < rows; ++j)
        if (Error error = codeRow(row + r + j, c, ArrayRef(scratch.block).slice(j * stride, cols),
                                  out, scratch))
          return error;
    }
  return Error::success();
}

// Whole groups of a row of all matrices, from a column on.
Error Packer::codeRow(int64_t row, int64_t col, ArrayRef<float> values, char *out,
                      CodeScratch &scratch) const {
  const WeightFormat &format = geometry.format;
  const int64_t group = format.group, groups = values.size() / group;
  const int64_t matrix = row / geometry.rows, r = row % geometry.rows;
  const Source &source = sourceOf(sources, row * geometry.cols + col);
  if (source.coded) {
    const int64_t first = (row * geometry.cols + col) / group;
    scratch.scales.resize(groups);
    if (Error error = gather(scales, first, scratch.scales))
      return error;
    if (format.zeros) {
      scratch.zeros.resize(groups);
      if (Error error = gather(zeros, first, scratch.zeros))
        return error;
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    const ArrayRef<float> x = values.slice(g * group, group);
    const MutableArrayRef<uint8_t> codes = MutableArrayRef(scratch.codes).take_front(group);
    const int64_t c = col + g * group;
    const auto where = [&](int64_t at) {
      return "weight '" + name + "' at [" +
             (geometry.outer > 1 ? std::to_string(matrix) + ", " : "") + std::to_string(r) + ", " +
             std::to_string(c + at) + "]";
    };
    float scale;
    if (source.coded) {
      scale = scratch.scales[g];
      const float zero = format.zeros ? scratch.zeros[g] : float(format.zero());
      if (roundScale(format.scale, scale) != scale || zero != std::floor(zero) || zero < 0 ||
          zero > (format.zeros ? 16 : 255))
        return fail(where(0) + ", of tensor '" + source.tensor + "' of the checkpoint, has scale " +
                    number(scale) + " and zero " + number(zero) + ", expected a " +
                    nameOf(format.scale) + " and an integer of 0 to 16");
      if (std::optional<size_t> bad = recoverCodes(format, scale, int64_t(zero), x, codes))
        return fail(where(*bad) + ", of tensor '" + source.tensor + "' of the checkpoint, is " +
                    number(x[*bad]) + ", which no code of " + nameOf(format) +
                    " stands for with scale " + number(scale) + " and zero " + number(zero) +
                    ": is the checkpoint damaged?");
      if (format.zeros)
        out[geometry.zero(matrix, r, c / group) - scratch.origin] = char(zero);
    } else {
      scale = quantizeGroup(format, options.scales, x, {}, codes);
      if (!std::isfinite(scale))
        return fail(
            where(0) + ", of tensor '" + source.tensor +
            "' of the checkpoint, starts a group with elements of up to " +
            number(*max_element(x, [](float a, float b) { return std::fabs(a) < std::fabs(b); })) +
            ", too large for the scales of " + nameOf(format) +
            ": store this weight as bf16, or is the checkpoint damaged?");
    }
    const uint32_t bits = scaleBits(format.scale, scale);
    char *at = out + geometry.scale(matrix, r, c / group) - scratch.origin;
    std::memcpy(at, &bits, bytesOf(format.scale));
    placeCodes(row, c, scratch, out);
  }
  return Error::success();
}

// Those of one group. In panels the columns of a unit lie together, and the units of a row as far
// apart as a unit of 64 rows is large. In fragments the places of 16 columns are those of the first
// 16, further on.
void Packer::placeCodes(int64_t row, int64_t col, const CodeScratch &scratch, char *out) const {
  const uint8_t *codes = scratch.codes.data();
  const int64_t matrix = row / geometry.rows, r = row % geometry.rows;
  const int64_t group = geometry.format.group;
  const bool nibbles = geometry.format.element == Storage::I4;
  if (!geometry.panels) {
    char *first = out + geometry.code(matrix, r, 0).byte - scratch.origin;
    for (int64_t c = col; c < col + group; ++c)
      if (nibbles)
        first[c / 2] |= char(codes[c - col] << c % 2 * 4);
      else
        first[c] = char(codes[c - col]);
    return;
  }
  if (geometry.fragments()) {
    constexpr int64_t tile = PackedGeometry::tileColumns;
    PackedGeometry::CodePlace places[tile];
    const PackedGeometry::CodePlace zero = geometry.code(matrix, r, 0);
    for (int64_t c = 0; c < std::min(tile, geometry.cols); ++c) {
      places[c] = geometry.code(matrix, r, c);
      places[c].byte -= zero.byte;
    }
    for (int64_t c = col, end; c < col + group; c = end) {
      const int64_t first = c / tile * tile;
      end = std::min(col + group, first + tile);
      char *at = out + geometry.code(matrix, r, first).byte - scratch.origin;
      for (; c < end; ++c)
        at[places[c - first].byte] |= char(codes[c - col] << places[c - first].shift);
    }
    return;
  }
  const PackedGeometry::CodePlace place = geometry.code(matrix, r, col);
  const int64_t step = kLanes * geometry.unit * bitsOf(geometry.format.element) / 8;
  char *at = out + place.byte - scratch.origin;
  for (int64_t c = 0; c < group; c += geometry.unit, at += step) {
    if (!nibbles) {
      std::memcpy(at, codes + c, geometry.unit);
      continue;
    }
    uint32_t four, there; // lanes 16 apart share bytes
    std::memcpy(&four, codes + c, 4);
    std::memcpy(&there, at, 4);
    there |= four << place.shift;
    std::memcpy(at, &there, 4);
  }
}
