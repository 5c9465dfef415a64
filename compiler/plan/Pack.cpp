// Packing reads blocks of float, rounds them into 32-bit words (one f32 or a pair of bf16, which is
// what lies together in a panel or fragment), and puts the words into their lanes. A weight whose
// rows are columns of the checkpoint is read in strips that are as wide as a piece has rows, so
// that a page of the checkpoint is visited a few times and not once for every 64 rows.
#include "compiler/plan/Pack.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <cmath>
#include <cstring>

using namespace llvm;
using namespace moe;

namespace {

constexpr int64_t kPieceBytes = 8 << 20;
constexpr int64_t kLanes = WeightLayout::panelLanes;
constexpr int64_t kBlockCols = 1024; // of 64 rows that are read one after the other: 256 KiB
constexpr int64_t kStripCols = 64;   // rows of the checkpoint that are read before they are turned
constexpr int64_t kStripRows = 1024; // their width: again 256 KiB

llvm::Error fail(const Twine &message) {
  return createStringError(inconvertibleErrorCode(), message);
}

uint32_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// The loops over all elements, compiled twice: for any processor, and for wider vectors.
#if defined(__x86_64__)
#define MOE_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define MOE_WIDE
#endif

// The largest magnitude, as bits, which are ordered as the values are; NaN is above all.
MOE_WIDE int32_t largest(const float *values, int64_t count) {
  int32_t most = 0;
  for (int64_t i = 0; i < count; ++i)
    most = std::max(most, int32_t(bitsOf(values[i]) & 0x7fffffff));
  return most;
}

// Also makes words of pairs: the first of a pair is in the lower half, as it is first in memory.
MOE_WIDE void toBf16(const float *values, int64_t count, char *out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t rounded = bf16Of(values[i]);
    std::memcpy(out + 2 * i, &rounded, 2);
  }
}

// Words of a row and the next; that is null behind the last.
MOE_WIDE void toPairs(const float *values, const float *next, int64_t count, uint32_t *out) {
  if (next)
    for (int64_t i = 0; i < count; ++i)
      out[i] = bf16Of(values[i]) | uint32_t(bf16Of(next[i])) << 16;
  else
    for (int64_t i = 0; i < count; ++i)
      out[i] = bf16Of(values[i]);
}

// lanes[c][r] = words[r][c]: 16 columns at a time, which are 4 KiB of the panel.
void transpose(const uint32_t *words, int64_t stride, int64_t rows, int64_t cols, uint32_t *lanes) {
  for (int64_t c0 = 0; c0 < cols; c0 += 16) {
    const int64_t n = std::min<int64_t>(16, cols - c0);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = c0; c < c0 + n; ++c)
        lanes[c * kLanes + r] = words[r * stride + c];
  }
}

// Puts the pairs words[r * rowStride + c * pairStride] of the rows `lane + r` of a strip into its
// tiles, from a column on that starts a tile.
void scatter(const uint32_t *words, int64_t rowStride, int64_t pairStride, int64_t lane,
             int64_t rows, int64_t pairs, uint32_t *tiles) {
  for (int64_t c = 0; c < pairs; ++c) {
    const int64_t tile = c / 8 * 128, column = c % 4 * 4 + c % 8 / 4 * 2;
    for (int64_t r = 0; r < rows; ++r)
      tiles[tile + (lane + r) % 8 * 16 + column + (lane + r) / 8] =
          words[r * rowStride + c * pairStride];
  }
}

} // namespace

//===----------------------------------------------------------------------===//
// What the sources are
//===----------------------------------------------------------------------===//

Expected<Packer::Source> Packer::makeSource(TensorSlice slice, int64_t begin) const {
  Result<SliceReader> reader = SliceReader::open(tensors, std::move(slice));
  if (!reader)
    return fail("weight '" + name + "' " + reader.error().message);
  Source source{std::move(*reader), begin};
  source.strips = source.slice.slice().transposed && source.slice.cols() == layout.cols &&
                  begin % layout.cols == 0;
  return std::move(source);
}

llvm::Error Packer::addSource(TensorSlice slice, int64_t begin) {
  Expected<Source> source = makeSource(std::move(slice), begin);
  if (!source)
    return source.takeError();
  const Encoding wanted{layout.format, source->slice.slice().transposed};
  if (layout.format.quantized() && source->slice.tensor().encoding == wanted) {
    source->coded = true;
    if (llvm::Error error = addGroups(*source, ":scale", scales))
      return error;
    if (layout.format.zeros)
      if (llvm::Error error = addGroups(*source, ":zero", zeros))
        return error;
  }
  sources.push_back(std::move(*source));
  return llvm::Error::success();
}

// The same slice of a tensor that has one element for each group of the source's.
llvm::Error Packer::addGroups(const Source &source, StringRef companion, std::vector<Source> &out) {
  const int64_t group = layout.format.group;
  TensorSlice groups = source.slice.slice();
  const size_t inputs = groups.sizes.size() - (groups.transposed ? 2 : 1);
  if (source.slice.cols() != layout.cols || source.begin % layout.cols ||
      groups.offsets[inputs] % group)
    return fail("weight '" + name + "' takes the slice at " + shapeText(groups.offsets) +
                " of size " + shapeText(groups.sizes) + " from tensor '" + groups.tensor +
                "' of the checkpoint, which cuts its groups of " + Twine(group) + " codes");
  groups.tensor += companion.str();
  groups.offsets[inputs] /= group;
  groups.sizes[inputs] /= group;
  Expected<Source> made = makeSource(std::move(groups), source.begin / group);
  if (!made)
    return made.takeError();
  out.push_back(std::move(*made));
  return llvm::Error::success();
}

Expected<Packer> Packer::create(StringRef name, mlir::RankedTensorType type,
                                std::vector<TensorSlice> slices, plan::PackingAttr packing,
                                const TensorSource &tensors, Options options) {
  Packer packer(tensors, options);
  packer.name = name.str();
  mlir::FailureOr<WeightLayout> layout = layoutOf(type, packing);
  if (failed(layout))
    return fail("weight '" + name + "' does not fit its packing");
  packer.layout = *layout;
  int64_t elements = 0;
  for (TensorSlice &slice : slices) {
    if (llvm::Error error = packer.addSource(std::move(slice), elements))
      return std::move(error);
    elements += packer.sources.back().slice.elements();
  }
  if (elements == 0)
    return fail("weight '" + name + "' has no elements");
  if (elements != type.getNumElements())
    return fail("weight '" + name + "' has " + Twine(type.getNumElements()) +
                " elements, and its sources " + Twine(elements));
  if (layout->format.zeros && packer.scales.size() != packer.sources.size())
    return fail(
        "weight '" + name + "' is packed as " + nameOf(layout->format) +
        ", whose zeros only a checkpoint can give, and tensor '" +
        find_if(packer.sources, [](const Source &s) { return !s.coded; })->slice.tensor().name +
        "' has other elements");
  const int64_t unit = layout->panels ? layout->panelBytes() : layout->rowBytes();
  packer.perPiece = std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, unit));
  return std::move(packer);
}

uint64_t Packer::storedBits() const {
  uint64_t bits = 0;
  for (const std::vector<Source> *list : {&sources, &scales, &zeros})
    for (const Source &source : *list)
      bits += uint64_t(source.slice.elements() * source.slice.tensor().storedBits());
  return bits;
}

const Packer::Source &Packer::sourceOf(ArrayRef<Source> sources, int64_t element) {
  return *std::prev(upper_bound(
      sources, element, [](int64_t at, const Source &source) { return at < source.begin; }));
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

llvm::Error Packer::read(const Source &source, int64_t place, MutableArrayRef<float> out) const {
  const TensorInfo &tensor = source.slice.tensor();
  if (Status status = tensors.read(tensor.name, uint64_t(place), {out.data(), out.size()}); !status)
    return fail(status.error().message);
  // Above this, rounding to bf16 gives infinity.
  const bool codes = layout.format.quantized();
  const int32_t limit = layout.format.element == Storage::BF16 ? 0x7f7f8000 : 0x7f800000;
  if ((options.allowNonFinite && !codes) || largest(out.data(), out.size()) < limit)
    return llvm::Error::success();
  const float *bad = find_if(out, [&](float v) { return largest(&v, 1) >= limit; });
  int64_t at = place + (bad - out.begin());
  std::vector<int64_t> position(tensor.shape.size());
  for (size_t d = position.size(); d-- > 0; at /= tensor.shape[d])
    position[d] = at % tensor.shape[d];
  return fail("tensor '" + tensor.name + "' of the checkpoint has the value " +
              formatv("{0}", *bad) + " at " + shapeText(position) + ", expected finite ones in " +
              nameOf(layout.format) + ": is the checkpoint damaged?" +
              (codes ? "" : " --allow-nonfinite takes such values as they are"));
}

// Elements of the weight, in order, whatever they are made of. Transposed ones come one by one.
llvm::Error Packer::gather(ArrayRef<Source> from, int64_t begin, MutableArrayRef<float> out) const {
  while (!out.empty()) {
    const Source &source = sourceOf(from, begin);
    const int64_t local = begin - source.begin;
    const int64_t n = std::min(
        {int64_t(out.size()), source.slice.elements() - local, source.slice.runLength(local)});
    if (llvm::Error error = read(source, source.slice.place(local), out.take_front(n)))
      return error;
    out = out.drop_front(n);
    begin += n;
  }
  return llvm::Error::success();
}

llvm::Error Packer::forBands(int64_t row, int64_t count,
                             function_ref<llvm::Error(int64_t, int64_t, bool)> use) const {
  for (const int64_t end = row + count; row < end;) {
    const Source &source = sourceOf(sources, row * layout.cols);
    int64_t next = end;
    if (source.strips) { // one matrix of it
      const int64_t first = source.begin / layout.cols;
      const int64_t rows = source.slice.rows();
      next = std::min(end, first + ((row - first) / rows + 1) * rows);
    } else { // up to the next source of strips
      for (const Source &other : sources)
        if (other.strips && other.begin > row * layout.cols) {
          next = std::min(end, other.begin / layout.cols);
          break;
        }
    }
    if (llvm::Error error = use(row, next - row, source.strips))
      return error;
    row = next;
  }
  return llvm::Error::success();
}

llvm::Error Packer::forStrips(int64_t row, int64_t count, Scratch &scratch,
                              function_ref<void(int64_t, int64_t, int64_t, int64_t)> use) const {
  const Source &source = sourceOf(sources, row * layout.cols);
  const int64_t first = row * layout.cols - source.begin;
  scratch.resize(kStripCols * kStripRows);
  for (int64_t r = 0; r < count; r += kStripRows)
    for (int64_t c = 0; c < layout.cols; c += kStripCols) {
      const int64_t width = std::min(kStripRows, count - r);
      const int64_t cols = std::min(kStripCols, layout.cols - c);
      for (int64_t i = 0; i < cols; ++i)
        if (llvm::Error error = read(source, source.slice.place(first + r * layout.cols + c + i),
                                     MutableArrayRef(scratch).slice(i * width, width)))
          return error;
      use(row + r, width, c, cols);
    }
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// Packing
//===----------------------------------------------------------------------===//

void Packer::toStorage(const float *values, int64_t count, char *out) const {
  if (layout.elementBytes() == 2)
    toBf16(values, count, out);
  else
    std::memcpy(out, values, count * sizeof(float));
}

int64_t Packer::pieces() const {
  if (!layout.panels)
    return divideCeil(layout.outer * layout.rows, perPiece);
  return layout.outer * divideCeil(layout.panels, perPiece);
}

Packer::Piece Packer::piece(int64_t index) const {
  if (!layout.panels) {
    const int64_t rowBytes = layout.rowBytes(), row = index * perPiece;
    return {row * rowBytes, std::min(perPiece, layout.outer * layout.rows - row) * rowBytes};
  }
  const int64_t perMatrix = divideCeil(layout.panels, perPiece);
  const int64_t first = index % perMatrix * perPiece;
  return {(index / perMatrix * layout.panels + first) * layout.panelBytes(),
          std::min(perPiece, layout.panels - first) * layout.panelBytes()};
}

llvm::Error Packer::pack(int64_t index, MutableArrayRef<char> out) const {
  assert(int64_t(out.size()) == piece(index).bytes && "not the piece's size");
  if (layout.format.quantized())
    return packCodes(index, out);
  return layout.panels ? packPanels(index, out) : packRows(index, out);
}

void Packer::segments(int64_t matrix, int64_t panel, SmallVectorImpl<Segment> &out) const {
  const int64_t row0 = matrix * layout.rows;
  const auto add = [&](int64_t row, int64_t end, int64_t most, int64_t lane) {
    if (row < end)
      out.push_back({row0 + row, std::min(most, end - row), panel, lane});
  };
  switch (layout.kind) {
  case WeightLayout::Kind::Rows:
    break;
  case WeightLayout::Kind::Panel:
    add(panel * kLanes, layout.rows, kLanes, 0);
    break;
  case WeightLayout::Kind::PanelGateUp: {
    const int64_t half = layout.rows / 2, row = panel * kLanes / 2;
    add(row, half, kLanes / 2, 0);
    add(half + row, layout.rows, kLanes / 2, kLanes / 2);
    break;
  }
  case WeightLayout::Kind::Fragments:
    add(panel * WeightLayout::stripRows, layout.rows, WeightLayout::stripRows, 0);
    break;
  case WeightLayout::Kind::FragmentsGateUp: {
    constexpr int64_t each = WeightLayout::stripRows / 2;
    const int64_t half = layout.rows / 2, row = panel * each;
    add(row, half, each, 0);
    add(half + row, layout.rows, each, each);
    break;
  }
  case WeightLayout::Kind::PanelHeads: {
    const int64_t perHead = divideCeil(layout.headDim, kLanes);
    const int64_t head = panel / perHead * layout.headDim;
    add(head + panel % perHead * kLanes, head + layout.headDim, kLanes, 0);
    break;
  }
  }
}

llvm::Error Packer::packPanels(int64_t index, MutableArrayRef<char> out) const {
  const int64_t panelWords = layout.panelBytes() / sizeof(uint32_t);
  const int64_t firstPanel = piece(index).offset / layout.panelBytes();
  const int64_t matrix = firstPanel / layout.panels, first = firstPanel % layout.panels;
  const int64_t count = out.size() / layout.panelBytes();
  auto *words = reinterpret_cast<uint32_t *>(out.data());

  SmallVector<Segment> parts;
  int64_t filled = 0;
  for (int64_t p = first; p < first + count; ++p)
    segments(matrix, p, parts);
  for (const Segment &part : parts)
    filled += part.count;
  if (filled != count * layout.panelRows() || layout.columns() * layout.unit > layout.cols)
    std::memset(out.data(), 0, out.size());

  // In the order of rows, neighbours make one range: gate rows, then up rows.
  sort(parts, [](const Segment &a, const Segment &b) { return a.row < b.row; });
  Scratch scratch;
  std::vector<uint32_t> pairs;
  for (size_t begin = 0, end; begin < parts.size(); begin = end) {
    for (end = begin + 1; end < parts.size(); ++end)
      if (parts[end].row != parts[end - 1].row + parts[end - 1].count)
        break;
    const ArrayRef<Segment> range = ArrayRef(parts).slice(begin, end - begin);
    // Calls `use` with the parts of the range's segments that are in [row, row + rows).
    const auto clip = [&](int64_t row, int64_t rows, auto use) -> llvm::Error {
      auto part = lower_bound(range, row,
                              [](const Segment &s, int64_t at) { return s.row + s.count <= at; });
      for (; part != range.end() && part->row < row + rows; ++part) {
        const int64_t from = std::max(part->row, row);
        const int64_t to = std::min(part->row + part->count, row + rows);
        if (llvm::Error error =
                use(Segment{from, to - from, part->panel, part->lane + from - part->row}))
          return error;
      }
      return llvm::Error::success();
    };
    const auto panelOf = [&](const Segment &s) { return words + (s.panel - first) * panelWords; };

    llvm::Error error = forBands(
        range.front().row, range.back().row + range.back().count - range.front().row,
        [&](int64_t row, int64_t rows, bool strips) -> llvm::Error {
          if (!strips)
            return clip(row, rows,
                        [&](const Segment &s) { return packStraight(s, panelOf(s), scratch); });
          return forStrips(
              row, rows, scratch, [&](int64_t at, int64_t width, int64_t col, int64_t cols) {
                if (layout.fragments()) {
                  const int64_t paired = divideCeil(cols, 2);
                  pairs.resize(paired * width);
                  for (int64_t c = 0; c < cols; c += 2)
                    toPairs(scratch.data() + c * width,
                            c + 1 < cols ? scratch.data() + (c + 1) * width : nullptr, width,
                            pairs.data() + c / 2 * width);
                  cantFail(clip(at, width, [&](const Segment &s) -> llvm::Error {
                    scatter(pairs.data() + (s.row - at), 1, width, s.lane, s.count, paired,
                            panelOf(s) + col * WeightLayout::stripRows / 2);
                    return llvm::Error::success();
                  }));
                  return;
                }
                cantFail(clip(at, width, [&](const Segment &s) -> llvm::Error {
                  uint32_t *lanes = panelOf(s) + col / layout.unit * kLanes + s.lane;
                  const float *low = scratch.data() + (s.row - at);
                  for (int64_t c = 0; c < cols; c += layout.unit, lanes += kLanes) {
                    const float *row = low + c * width;
                    if (layout.unit == 1)
                      std::memcpy(lanes, row, s.count * sizeof(float));
                    else
                      toPairs(row, c + 1 < cols ? row + width : nullptr, s.count, lanes);
                  }
                  return llvm::Error::success();
                }));
              });
        });
    if (error)
      return error;
  }
  return llvm::Error::success();
}

llvm::Error Packer::packStraight(const Segment &segment, uint32_t *panel, Scratch &scratch) const {
  // Rows of words lie a little more than 4 KiB apart, as else all would share one set of the cache.
  constexpr int64_t stride = kBlockCols + 16;
  scratch.resize(std::max<size_t>(scratch.size(), kBlockCols + kLanes * stride));
  float *row = scratch.data();
  auto *words = reinterpret_cast<uint32_t *>(row + kBlockCols);
  for (int64_t c = 0; c < layout.cols; c += kBlockCols) {
    const int64_t cols = std::min(kBlockCols, layout.cols - c);
    for (int64_t r = 0; r < segment.count; ++r) {
      if (llvm::Error error =
              gather(sources, (segment.row + r) * layout.cols + c, {row, size_t(cols)}))
        return error;
      words[r * stride + cols / 2] = 0; // the pair of an odd last column
      toStorage(row, cols, reinterpret_cast<char *>(words + r * stride));
    }
    const int64_t groups = divideCeil(cols, layout.unit);
    if (layout.fragments())
      scatter(words, stride, 1, segment.lane, segment.count, groups,
              panel + c * WeightLayout::stripRows / 2);
    else
      transpose(words, stride, segment.count, groups,
                panel + c / layout.unit * kLanes + segment.lane);
  }
  return llvm::Error::success();
}

llvm::Error Packer::packRows(int64_t index, MutableArrayRef<char> out) const {
  const int64_t cols = layout.cols, firstRow = index * perPiece;
  const auto place = [&](int64_t element) { return out.data() + element * layout.elementBytes(); };
  Scratch scratch;
  return forBands(
      firstRow, out.size() / (cols * layout.elementBytes()),
      [&](int64_t row, int64_t rows, bool strips) -> llvm::Error {
        if (strips)
          return forStrips(row, rows, scratch,
                           [&](int64_t at, int64_t width, int64_t col, int64_t n) {
                             float turned[kStripCols];
                             for (int64_t r = 0; r < width; ++r) {
                               for (int64_t c = 0; c < n; ++c)
                                 turned[c] = scratch[c * width + r];
                               toStorage(turned, n, place((at - firstRow + r) * cols + col));
                             }
                           });
        constexpr int64_t block = 16 << 10;
        const int64_t begin = (row - firstRow) * cols, end = begin + rows * cols;
        scratch.resize(block);
        for (int64_t i = begin; i < end; i += block) {
          const int64_t n = std::min(end - i, block);
          if (llvm::Error error =
                  gather(sources, firstRow * cols + i, MutableArrayRef(scratch).take_front(n)))
            return error;
          toStorage(scratch.data(), n, place(i));
        }
        return llvm::Error::success();
      });
}
