// Packing of codes: the groups of 16 rows, a tile, are quantized at once, or the codes of a row are
// recovered where the checkpoint has them, and put where Layout.h wants them. Rows of a panel that
// are neighbours have their codes side by side, so that those of a tile go there a vector at a
// time.
//
// A tile is laid out by columns. That is how strips are read; other rows are turned.
#include "compiler/plan/Pack.h"

#include "llvm/ADT/STLExtras.h"

#include <cmath>
#include <cstdio>
#include <cstring>

using namespace llvm;
using namespace moe;

namespace {

// The loops over all elements, compiled twice: for any processor, and for wider vectors.
#if defined(__x86_64__)
#define MOE_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define MOE_WIDE
#endif

constexpr int64_t kLanes = WeightLayout::panelLanes;
constexpr int64_t kTile = kQuantizedGroups; // rows
constexpr int64_t kBlockCols = 1024;        // of 64 rows that are read one after the other
constexpr int64_t kStripCols = 64;          // least, of strips
constexpr int64_t kBlockElements = 1 << 16; // of strips, but 64 rows at least
constexpr int64_t kPadding = 16; // as rows a power of two apart would share one set of a cache

llvm::Error fail(const Twine &message) {
  return createStringError(inconvertibleErrorCode(), message);
}

std::string number(float value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", double(value));
  return text;
}

// columns[c][r] = rows[r][c] of 16 rows, 16 columns at a time. Joining the upper half of 16 rows
// with the lower half, element by element, moves the lowest bit of a row's number to the columns'.
MOE_WIDE void turnTile(const float *rows, int64_t stride, int64_t cols, float *columns) {
  typedef float Vector __attribute__((vector_size(kTile * sizeof(float))));
  for (int64_t c = 0; c < cols; c += kTile) {
    Vector from[kTile], to[kTile];
    for (int64_t r = 0; r < kTile; ++r)
      std::memcpy(&from[r], rows + r * stride + c, sizeof(Vector));
    for (int step = 0; step < 4; ++step) {
      for (int64_t i = 0; i < kTile / 2; ++i) {
        to[2 * i] = __builtin_shufflevector(from[i], from[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20,
                                            5, 21, 6, 22, 7, 23);
        to[2 * i + 1] = __builtin_shufflevector(from[i], from[i + 8], 8, 24, 9, 25, 10, 26, 11, 27,
                                                12, 28, 13, 29, 14, 30, 15, 31);
      }
      std::memcpy(from, to, sizeof(from));
    }
    std::memcpy(columns + c * kTile, from, std::min(kTile, cols - c) * sizeof(Vector));
  }
}

// codes[r * stride + c] = tile[c * 16 + r]
void turnCodes(const uint8_t *tile, int64_t count, int64_t stride, uint8_t *codes) {
  for (int64_t c = 0; c < count; ++c)
    for (int64_t r = 0; r < kTile; ++r)
      codes[r * stride + c] = tile[c * kTile + r];
}

// The codes of 16 rows into 16 lanes of a panel, whose units of columns are `step` bytes apart.
MOE_WIDE void placeInLanes(const uint8_t *tile, int64_t count, int64_t unit, int64_t shift,
                           int64_t step, char *out) {
  for (int64_t c = 0; c < count; c += unit, out += step) {
    const uint8_t *at = tile + c * kTile;
    if (unit == 2) { // of F8E4M3
      uint16_t lanes[kTile];
      for (int64_t r = 0; r < kTile; ++r)
        lanes[r] = at[r] | at[kTile + r] << 8;
      std::memcpy(out, lanes, sizeof(lanes));
      continue;
    }
    uint32_t lanes[kTile]; // of I4, 16 others share them
    std::memcpy(lanes, out, sizeof(lanes));
    for (int64_t r = 0; r < kTile; ++r)
      lanes[r] |=
          (at[r] | at[kTile + r] << 8 | at[2 * kTile + r] << 16 | uint32_t(at[3 * kTile + r]) << 24)
          << shift;
    std::memcpy(out, lanes, sizeof(lanes));
  }
}

} // namespace

// What packing a piece needs, and its bytes.
struct Packer::CodeScratch {
  char *out;
  int64_t origin;                   // of the piece, in bytes of the weight
  std::vector<float> block, tile;   // as they are read; 16 rows, by columns
  std::vector<float> scales, zeros; // that are read
  std::vector<uint8_t> codes;       // of a tile, by columns
  // Of rows, each with zeros up to a whole unit.
  std::vector<uint8_t> rows;
  int64_t rowStride;

  // Of a byte of the weight.
  char *at(int64_t byte) { return out + byte - origin; }
};

std::string Packer::where(int64_t row, int64_t col) const {
  const int64_t matrix = row / layout.rows, r = row % layout.rows;
  return "weight '" + name + "' at [" + (layout.outer > 1 ? std::to_string(matrix) + ", " : "") +
         std::to_string(r) + ", " + std::to_string(col) + "], of tensor '" +
         sourceOf(sources, row * layout.cols + col).slice.tensor().name + "' of the checkpoint,";
}

llvm::Error Packer::packCodes(int64_t index, MutableArrayRef<char> out) const {
  const Piece at = piece(index);
  std::memset(out.data(), 0, out.size()); // codes are added by bits; padding rows have scales of 0
  SmallVector<Segment> parts;
  if (layout.panels) {
    const int64_t first = at.offset / layout.panelBytes();
    for (int64_t p = first; p < first + at.bytes / layout.panelBytes(); ++p)
      segments(p / layout.panels, p % layout.panels, parts);
    sort(parts, [](const Segment &a, const Segment &b) { return a.row < b.row; });
  } else {
    parts.push_back({at.offset / layout.rowBytes(), at.bytes / layout.rowBytes(), 0, 0});
  }

  CodeScratch scratch{out.data(), at.offset, {}, {}, {}, {}, {}, {}, 0};
  scratch.codes.resize(layout.format.group * kTile);
  scratch.rowStride = alignTo(layout.format.group, 4);
  scratch.rows.resize(scratch.rowStride * kTile, 0);
  for (size_t begin = 0, end; begin < parts.size(); begin = end) {
    int64_t count = parts[begin].count; // of neighbours, read together
    for (end = begin + 1; end < parts.size() && parts[end].row == parts[begin].row + count; ++end)
      count += parts[end].count;
    if (llvm::Error error = forBands(
            parts[begin].row, count, [&](int64_t row, int64_t rows, bool strips) -> llvm::Error {
              return strips ? codeStrips(row, rows, scratch) : codeStraight(row, rows, scratch);
            }))
      return error;
  }
  return llvm::Error::success();
}

// The places of a row's group are a few bytes of each unit of columns, and those of 64 rows make up
// the unit, so a block of 64 rows is written within the cache.
llvm::Error Packer::codeStraight(int64_t row, int64_t count, CodeScratch &scratch) const {
  const int64_t group = layout.format.group;
  const int64_t blockCols = group * std::max<int64_t>(1, kBlockCols / group);
  const int64_t stride = alignTo(blockCols, kTile) + kPadding;
  const auto coded = [&](int64_t r) { return sourceOf(sources, r * layout.cols).coded; };
  scratch.block.assign(kTile * stride, 0);
  scratch.tile.resize(alignTo(blockCols, kTile) * kTile);
  for (int64_t r0 = row; r0 < row + count; r0 += kLanes)
    for (int64_t c = 0; c < layout.cols; c += blockCols) {
      const int64_t cols = std::min(blockCols, layout.cols - c);
      const int64_t end = std::min(r0 + kLanes, row + count);
      for (int64_t r = r0, rows; r < end; r += rows) {
        // Rows that have codes of their own come one by one.
        for (rows = 1; rows < kTile && r + rows < end && !coded(r) && !coded(r + rows);)
          ++rows;
        for (int64_t i = 0; i < rows; ++i)
          if (llvm::Error error = gather(sources, (r + i) * layout.cols + c,
                                         MutableArrayRef(scratch.block).slice(i * stride, cols)))
            return error;
        if (coded(r)) {
          if (llvm::Error error =
                  recoverRow(r, c, ArrayRef(scratch.block).take_front(cols), scratch))
            return error;
          continue;
        }
        turnTile(scratch.block.data(), stride, cols, scratch.tile.data());
        for (int64_t g = 0; g < cols; g += group)
          if (llvm::Error error =
                  quantizeTile(r, rows, c + g, scratch.tile.data() + g * kTile, kTile, scratch))
            return error;
      }
    }
  return llvm::Error::success();
}

// As forStrips.
llvm::Error Packer::codeStrips(int64_t row, int64_t count, CodeScratch &scratch) const {
  const Source &source = sourceOf(sources, row * layout.cols);
  const int64_t first = row * layout.cols - source.begin;
  const int64_t group = layout.format.group;
  const int64_t blockCols = group * divideCeil(std::min(kStripCols, layout.cols), group);
  const int64_t blockRows =
      std::clamp<int64_t>(kBlockElements / blockCols / kLanes, 1, 16) * kLanes;
  const int64_t stride = blockRows + kPadding;
  scratch.block.assign(blockCols * stride, 0);
  // Down the rows first, which stay in the same pages of the checkpoint.
  for (int64_t c = 0; c < layout.cols; c += blockCols)
    for (int64_t r = 0; r < count; r += blockRows) {
      const int64_t rows = std::min(blockRows, count - r);
      const int64_t cols = std::min(blockCols, layout.cols - c);
      for (int64_t i = 0; i < cols; ++i)
        if (llvm::Error error = read(source, source.slice.place(first + r * layout.cols + c + i),
                                     MutableArrayRef(scratch.block).slice(i * stride, rows)))
          return error;
      if (source.coded) {
        scratch.tile.resize(cols);
        for (int64_t j = 0; j < rows; ++j) {
          for (int64_t i = 0; i < cols; ++i)
            scratch.tile[i] = scratch.block[i * stride + j];
          if (llvm::Error error = recoverRow(row + r + j, c, scratch.tile, scratch))
            return error;
        }
        continue;
      }
      for (int64_t j = 0; j < rows; j += kTile)
        for (int64_t g = 0; g < cols; g += group)
          if (llvm::Error error =
                  quantizeTile(row + r + j, std::min(kTile, rows - j), c + g,
                               scratch.block.data() + g * stride + j, stride, scratch))
            return error;
    }
  return llvm::Error::success();
}

// Whole groups of a row of all matrices, from a column on, that the checkpoint has the codes of.
llvm::Error Packer::recoverRow(int64_t row, int64_t col, ArrayRef<float> values,
                               CodeScratch &scratch) const {
  const WeightFormat &format = layout.format;
  const StorageInfo &stored = infoOf(format.scale);
  const int64_t mostZero = infoOf(format.element).mostZero;
  const int64_t group = format.group, groups = values.size() / group;
  const int64_t first = (row * layout.cols + col) / group;
  scratch.scales.resize(groups);
  if (llvm::Error error = gather(scales, first, scratch.scales))
    return error;
  if (format.zeros) {
    scratch.zeros.resize(groups);
    if (llvm::Error error = gather(zeros, first, scratch.zeros))
      return error;
  }
  for (int64_t g = 0; g < groups; ++g) {
    const ArrayRef<float> x = values.slice(g * group, group);
    const int64_t c = col + g * group;
    const float scale = scratch.scales[g];
    const float zero = format.zeros ? scratch.zeros[g] : float(format.zero());
    if (stored.decode(stored.encode(scale, 0), 0) != scale)
      return fail(where(row, c) + " has scale " + number(scale) + ", expected one that " +
                  nameOf(format.scale) + " can hold");
    if (format.zeros && (zero != std::floor(zero) || zero < 0 || zero > float(mostZero)))
      return fail(where(row, c) + " has zero " + number(zero) + ", expected an integer of 0 to " +
                  Twine(mostZero));
    if (std::optional<size_t> bad = recoverCodes(format, scale, int64_t(zero), x,
                                                 MutableArrayRef(scratch.rows).take_front(group)))
      return fail(where(row, c + *bad) + " is " + number(x[*bad]) + ", which no code of " +
                  nameOf(format) + " stands for with scale " + number(scale) + " and zero " +
                  number(zero) + ": is the checkpoint damaged?");
    if (format.zeros)
      *scratch.at(layout.zero(row / layout.rows, row % layout.rows, c / group)) = char(zero);
    placeScale(row, c, scale, scratch);
    placeRow(row, c, scratch.rows.data(), scratch);
  }
  return llvm::Error::success();
}

// One group of up to 16 rows of all matrices: element i of row `row + r` is values[i * stride + r].
llvm::Error Packer::quantizeTile(int64_t row, int64_t rows, int64_t col, const float *values,
                                 int64_t stride, CodeScratch &scratch) const {
  const WeightFormat &format = layout.format;
  const int64_t group = format.group;
  float found[kTile];
  quantizeGroups(format, options.scales, values, stride, group, {}, found, scratch.codes.data());
  for (int64_t r = 0; r < rows; ++r) {
    if (!std::isfinite(found[r])) {
      float most = 0;
      for (int64_t i = 0; i < group; ++i)
        if (std::fabs(values[i * stride + r]) > std::fabs(most))
          most = values[i * stride + r];
      return fail(where(row + r, col) + " starts a group with elements of up to " + number(most) +
                  ", too large for the scales of " + nameOf(format) +
                  ": store this weight as bf16, or is the checkpoint damaged?");
    }
    placeScale(row + r, col, found[r], scratch);
  }
  if (rows == kTile && placeTile(row, col, scratch))
    return llvm::Error::success();
  turnCodes(scratch.codes.data(), group, scratch.rowStride, scratch.rows.data());
  for (int64_t r = 0; r < rows; ++r)
    placeRow(row + r, col, scratch.rows.data() + r * scratch.rowStride, scratch);
  return llvm::Error::success();
}

void Packer::placeScale(int64_t row, int64_t col, float scale, CodeScratch &scratch) const {
  const WeightFormat &format = layout.format;
  const uint32_t bits = infoOf(format.scale).encode(scale, 0);
  std::memcpy(scratch.at(layout.scale(row / layout.rows, row % layout.rows, col / format.group)),
              &bits, bytesOf(format.scale));
}

// Those of 16 rows, if they are 16 lanes of a panel: false otherwise, and nothing is done.
bool Packer::placeTile(int64_t row, int64_t col, CodeScratch &scratch) const {
  const int64_t matrix = row / layout.rows, r = row % layout.rows, unit = layout.unit;
  if (!layout.panels || layout.fragments() || r + kTile > layout.rows || layout.format.group % unit)
    return false;
  const int64_t first = layout.packedRow(r);
  if (first % kTile || layout.packedRow(r + kTile - 1) != first + kTile - 1)
    return false;
  const WeightLayout::CodePlace place = layout.code(matrix, r, col);
  placeInLanes(scratch.codes.data(), layout.format.group, unit, place.shift,
               unitBytes(layout.format.element), scratch.at(place.byte));
  return true;
}

// Those of one group of a row, with zeros behind them up to a whole unit. In panels the columns of
// a unit lie together, and the units of a row as far apart as a unit of 64 rows is large. In
// fragments the places of 16 columns are those of the first 16, further on.
void Packer::placeRow(int64_t row, int64_t col, const uint8_t *codes, CodeScratch &scratch) const {
  const int64_t matrix = row / layout.rows, r = row % layout.rows;
  const int64_t group = layout.format.group;
  const bool nibbles = layout.format.element == Storage::I4;
  if (!layout.panels) {
    char *first = scratch.at(layout.code(matrix, r, 0).byte);
    for (int64_t c = col; c < col + group; ++c)
      if (nibbles)
        first[c / 2] |= char(codes[c - col] << c % 2 * 4);
      else
        first[c] = char(codes[c - col]);
    return;
  }
  if (layout.fragments()) {
    constexpr int64_t tile = WeightLayout::tileColumns;
    WeightLayout::CodePlace places[tile];
    const WeightLayout::CodePlace zero = layout.code(matrix, r, 0);
    for (int64_t c = 0; c < std::min(tile, layout.cols); ++c) {
      places[c] = layout.code(matrix, r, c);
      places[c].byte -= zero.byte;
    }
    for (int64_t c = col, end; c < col + group; c = end) {
      const int64_t first = c / tile * tile;
      end = std::min(col + group, first + tile);
      char *at = scratch.at(layout.code(matrix, r, first).byte);
      for (; c < end; ++c)
        at[places[c - first].byte] |= char(codes[c - col] << places[c - first].shift);
    }
    return;
  }
  const WeightLayout::CodePlace place = layout.code(matrix, r, col);
  const int64_t step = unitBytes(layout.format.element);
  char *at = scratch.at(place.byte);
  for (int64_t c = 0; c < group; c += layout.unit, at += step) {
    if (!nibbles) {
      std::memcpy(at, codes + c, layout.unit);
      continue;
    }
    uint32_t four, there; // lanes 16 apart share bytes
    std::memcpy(&four, codes + c, 4);
    std::memcpy(&there, at, 4);
    there |= four << place.shift;
    std::memcpy(at, &there, 4);
  }
}
