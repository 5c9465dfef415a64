// Pictures of a prompt: from cut pictures and a prompt's tokens to what a session takes.
#ifndef MOE_RUNTIME_SESSION_PROMPTIMAGES_H
#define MOE_RUNTIME_SESSION_PROMPTIMAGES_H

#include "runtime/session/Session.h"
#include "runtime/vision/Tiles.h"

namespace moe {

// How the plan's model sees. Error: InvalidArgument, where it takes no pictures.
Result<VisionFormat> planVision(const Plan &plan);

struct PromptImages {
  std::vector<int32_t> tokens;
  std::vector<int64_t> positions; // where the tokens of each picture start
};

// Each token VisionFormat::image of `ids`, as a chat format writes it, becomes the tokens of the
// next picture. Error: InvalidArgument, where there are more of them than pictures, or fewer, or
// a token that stands for a row, or the plan does not know all tokens of a picture.
Result<PromptImages> placeImages(std::span<const int32_t> ids, std::span<const Tiles> pictures,
                                 const VisionFormat &format);

// Of ids that have the tokens of pictures already, where each picture starts. Error:
// InvalidArgument, where the tokens are not those of these pictures, or one outside of them stands
// for a row; any token does where the plan
// does not know which it is.
Result<std::vector<int64_t>> findImages(std::span<const int32_t> ids,
                                        std::span<const Tiles> pictures,
                                        const VisionFormat &format);

// Whether a sequence of `tokens`, with these pictures in it, fits in the session's context: before
// they are encoded, which may take long. Error: ResourceExhausted.
Status checkImagesFit(const Session &session, int64_t tokens, std::span<const Tiles> pictures,
                      const VisionFormat &format);

// Encodes pictures, for Session::setImages. `offset`: of the positions in the sequence.
Result<std::vector<ImageSpan>> encodeImages(Session &session, std::span<const Tiles> pictures,
                                            std::span<const int64_t> positions, int64_t offset = 0);

} // namespace moe

#endif
