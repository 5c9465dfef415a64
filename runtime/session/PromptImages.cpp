// Places of pictures are found by counting tokens.
#include "runtime/session/PromptImages.h"

#include <algorithm>

namespace moe {
namespace {

std::string pictures(size_t count) {
  return std::to_string(count) + (count == 1 ? " picture" : " pictures");
}

Error otherCount(size_t given, size_t places) {
  return {Code::InvalidArgument, pictures(given) + (given == 1 ? " was" : " were") +
                                     " given, and the prompt has places for " +
                                     std::to_string(places)};
}

Error strayPatch(size_t position) {
  return {Code::InvalidArgument, "the token at position " + std::to_string(position) +
                                     " stands for a row of a picture, and no picture was given "
                                     "for it"};
}

} // namespace

Result<VisionFormat> planVision(const Plan &plan) {
  const fb::Vision *vision = plan.index().vision();
  if (!vision)
    return takesNoPictures();
  VisionFormat format;
  format.tile = int32_t(vision->tile_size());
  format.rowsPerTile = int32_t(vision->rows_per_tile());
  format.maxTiles = int32_t(vision->max_tiles());
  format.imageStart = vision->image_start();
  format.imageEnd = vision->image_end();
  format.tileXSeparator = vision->tile_x_separator();
  format.tileYSeparator = vision->tile_y_separator();
  format.image = vision->image();
  format.patch = vision->patch();
  return format;
}

Result<PromptImages> placeImages(std::span<const int32_t> ids, std::span<const Tiles> pictures,
                                 const VisionFormat &format) {
  if (format.image < 0 || format.tileXSeparator < 0 || format.tileYSeparator < 0)
    return Error{Code::InvalidArgument,
                 "the plan does not know which tokens separate the tiles of a picture, as it was "
                 "made without a tokenizer: compile it with the tokenizer's files beside "
                 "config.json, or give token ids that hold the pictures' tokens"};
  const auto places = size_t(std::count(ids.begin(), ids.end(), format.image));
  if (places != pictures.size())
    return otherCount(pictures.size(), places);
  PromptImages prompt;
  for (int32_t id : ids) {
    if (id == format.patch)
      return strayPatch(prompt.tokens.size());
    if (id != format.image) {
      prompt.tokens.push_back(id);
      continue;
    }
    const Tiles &picture = pictures[prompt.positions.size()];
    prompt.positions.push_back(int64_t(prompt.tokens.size()));
    const std::vector<int32_t> tokens = imageTokens(picture.grid, format);
    prompt.tokens.insert(prompt.tokens.end(), tokens.begin(), tokens.end());
  }
  return prompt;
}

Result<std::vector<int64_t>> findImages(std::span<const int32_t> ids,
                                        std::span<const Tiles> pictures,
                                        const VisionFormat &format) {
  const auto places = size_t(std::count(ids.begin(), ids.end(), format.imageStart));
  if (places != pictures.size())
    return otherCount(pictures.size(), places);
  const auto matches = [](int32_t known, int32_t id) { return known < 0 || known == id; };
  std::vector<int64_t> positions;
  for (size_t at = 0; at < ids.size(); ++at) {
    if (ids[at] == format.patch)
      return strayPatch(at);
    if (ids[at] != format.imageStart)
      continue;
    const Grid grid = pictures[positions.size()].grid;
    const std::vector<int32_t> tokens = imageTokens(grid, format);
    const auto rest = ids.subspan(at);
    if (rest.size() < tokens.size() ||
        !std::equal(tokens.begin(), tokens.end(), rest.begin(), matches))
      return Error{Code::InvalidArgument,
                   "the tokens at position " + std::to_string(at) + " are not those of picture " +
                       std::to_string(positions.size()) + ", which is cut into " +
                       std::to_string(grid.rows) + " x " + std::to_string(grid.columns) +
                       " tiles and has " + std::to_string(tokens.size()) + " tokens"};
    positions.push_back(int64_t(at));
    at += tokens.size() - 1;
  }
  return positions;
}

Status checkImagesFit(const Session &session, int64_t tokens, std::span<const Tiles> pictures,
                      const VisionFormat &format) {
  if (tokens <= session.context())
    return ok();
  int64_t ofPictures = 0;
  for (const Tiles &picture : pictures)
    ofPictures += imageTokenCount(picture.grid, format);
  return Error{Code::ResourceExhausted,
               std::to_string(tokens) + " tokens, " + std::to_string(ofPictures) +
                   " of them of pictures, do not fit in the context of " +
                   std::to_string(session.context()) +
                   "; ask for more with --context, or give fewer or smaller pictures"};
}

Result<std::vector<ImageSpan>> encodeImages(Session &session, std::span<const Tiles> pictures,
                                            std::span<const int64_t> positions, int64_t offset) {
  std::vector<ImageSpan> spans;
  if (pictures.empty())
    return spans;
  std::vector<uint8_t> tiles; // of all, which are encoded together
  std::vector<int32_t> counts;
  for (const Tiles &picture : pictures) {
    tiles.insert(tiles.end(), picture.pixels.begin(), picture.pixels.end());
    counts.push_back(picture.count());
  }
  MOE_ASSIGN(images, session.encode(std::as_bytes(std::span(tiles)), counts));
  for (size_t i = 0; i < images.size(); ++i)
    spans.push_back({offset + positions[i], images[i]});
  return spans;
}

} // namespace moe
