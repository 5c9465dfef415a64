// Pictures of a session: encoding them, and what their tokens are in the prefix cache.
#include "runtime/session/Session.h"

#include <algorithm>
#include <cstring>

namespace moe {

Status Session::checkPictures() const {
  if (!model.vision)
    return takesNoPictures();
  if (!model.binding.tiles)
    return Error{Code::InvalidArgument, "the plan has no program for pictures on device " +
                                            programsOf + ": choose another with --device"};
  return ok();
}

Result<std::vector<std::shared_ptr<const EncodedImage>>>
Session::encode(std::span<const std::byte> tiles, std::span<const int32_t> counts) {
  MOE_TRY(checkPictures());
  const VisionModel &vision = *model.vision;
  int64_t count = 0;
  for (int32_t of : counts) {
    if (of < 1)
      return Error{Code::InvalidArgument,
                   "a picture has " + std::to_string(of) + " tiles, expected one at least"};
    count += of;
  }
  if (tiles.size() != uint64_t(count) * vision.tileBytes)
    return Error{Code::InvalidArgument, std::to_string(count) + " tiles of pictures have " +
                                            std::to_string(tiles.size()) + " bytes, expected " +
                                            std::to_string(uint64_t(count) * vision.tileBytes)};
  std::vector<std::shared_ptr<EncodedImage>> images;
  size_t first = 0;
  for (int32_t of : counts) {
    const size_t bytes = size_t(of) * vision.tileBytes;
    EncodedImage &image = *images.emplace_back(std::make_shared<EncodedImage>());
    image.channels = model.hiddenSize;
    image.count = int64_t(of) * vision.rowsPerTile;
    image.rows.reserve(size_t(image.count * image.channels));
    image.key = imageKey(tiles.subspan(first, bytes));
    first += bytes;
  }

  // Tiles do not know of each other, so those of all pictures run together.
  const size_t tileRows = size_t(vision.rowsPerTile * model.hiddenSize); // elements
  const int64_t most = executor->maxTiles();
  auto image = images.begin();
  for (int64_t tile = 0; tile < count; tile += most) {
    if (cancel && cancel->load(std::memory_order_relaxed))
      return Error{Code::Cancelled, "interrupted"};
    const int64_t batch = std::min(most, count - tile);
    inputs[*model.binding.tiles] =
        tiles.subspan(size_t(tile) * vision.tileBytes, size_t(batch) * vision.tileBytes);
    const TensorPart rowsOfAll{*model.binding.tileRows, 0,
                               uint64_t(batch) * tileRows * sizeof(float)};
    MOE_TRY(executor->run({int32_t(batch), 0, inputs, {}, {&rowsOfAll, 1}, ProgramKind::Vision}));
    const auto *from =
        reinterpret_cast<const float *>(executor->output(*model.binding.tileRows).data());
    for (int64_t i = 0; i < batch; ++i, from += tileRows) {
      if (int64_t((*image)->rows.size()) == (*image)->count * (*image)->channels)
        ++image;
      (*image)->rows.insert((*image)->rows.end(), from, from + tileRows);
    }
  }
  return std::vector<std::shared_ptr<const EncodedImage>>(images.begin(), images.end());
}

Result<std::shared_ptr<const EncodedImage>> Session::encode(std::span<const std::byte> tiles,
                                                            int32_t count) {
  MOE_ASSIGN(images, encode(tiles, std::span(&count, 1)));
  return images.front();
}

Status Session::setImages(int32_t sequence, std::span<const ImageSpan> images) {
  if (!has(sequence))
    return Error{Code::InvalidArgument, "there is no sequence " + std::to_string(sequence)};
  if (!images.empty())
    MOE_TRY(checkPictures());
  Slot &slot = slots[sequence];
  return slot.images.set(images, slot.length, options.context, model.hiddenSize);
}

// Tokens of a sequence from its start, as the prefix cache knows them.
std::vector<int32_t> Session::keyTokens(std::span<const int32_t> tokens,
                                        SequenceImages &images) const {
  std::vector<int32_t> keys(tokens.begin(), tokens.end());
  const auto count = std::min<int64_t>(int64_t(tokens.size()), options.context);
  for (int64_t i = 0; i < count; ++i) {
    images.advance(i, isPatch(tokens[size_t(i)]));
    if (isPatch(tokens[size_t(i)]))
      keys[size_t(i)] = keyOfPatch(images, i);
  }
  return keys;
}

int32_t Session::keyOfPatch(const SequenceImages &images, int64_t position) const {
  const auto row = images.rowAt(position);
  return row ? imageToken(row->image->key, row->row) : model.vision->patch;
}

int64_t Session::cachedPrefix(std::span<const int32_t> tokens, uint64_t salt,
                              std::span<const ImageSpan> spans) const {
  if (spans.empty())
    return cache.cachedPrefix(tokens, salt);
  SequenceImages images;
  if (!images.set(spans, 0, options.context, model.hiddenSize))
    return 0; // as attach, before which setImages would refuse them
  return cache.cachedPrefix(keyTokens(tokens, images), salt);
}

// Others know tokens by their ids. The hashes tell pages of two pictures apart.
void Session::setPageObserver(PageObserver observer) {
  if (!model.vision || !observer) {
    cache.setObserver(std::move(observer));
    return;
  }
  cache.setObserver([observer = std::move(observer), patch = model.vision->patch,
                     ids = std::vector<int32_t>()](const PageEvent &event) mutable {
    ids.assign(event.tokens.begin(), event.tokens.end());
    for (int32_t &id : ids)
      id = id < 0 ? patch : id;
    observer({event.stored, event.hash, event.parent, ids});
  });
}

// The row that the token takes, which is copied to where the step's rows are, or -1.
int32_t Session::placeImageRow(const SequenceImages &images, int64_t position, bool patch) {
  const auto row = patch ? images.rowAt(position) : std::nullopt;
  if (!row)
    return -1;
  const std::span<const float> values = row->image->row(row->row);
  std::memcpy(imageRows.data() + size_t(imageRowCount) * values.size(), values.data(),
              values.size_bytes());
  return imageRowCount++;
}

} // namespace moe
