// Pictures and films that moe-run reads, and prompts with them.
#ifndef MOE_TOOLS_MOE_RUN_PICTURES_H
#define MOE_TOOLS_MOE_RUN_PICTURES_H

#include "runtime/session/PromptImages.h"
#include "tools/moe-run/Commands.h"

namespace moe {

// The picture of a file, cut into tiles. `name`: a path, or "640x480:PATH" of raw pixels, three
// bytes each. Error: one sentence that names the file.
Result<Tiles> readTiles(const std::string &name, const VisionFormat &format);

// A picture of one command line, or a film.
struct ReadMedia {
  struct Frame {
    std::string label; // text before it
    Tiles tiles;
  };
  std::vector<Frame> frames;
};
Result<std::vector<ReadMedia>> readMedia(std::span<const MediaFile> files,
                                         const VisionFormat &format);

// A prompt as a session takes it.
struct PromptWithPictures {
  std::vector<int32_t> tokens;
  std::vector<Tiles> pictures;
  std::vector<int64_t> positions; // of each picture
};

// Text with a picture or film at each `<image>`, or where there is none all of them at its start;
// ids that have the tokens of pictures already. Errors: those of promptTokens; InvalidArgument for
// other numbers of pictures than places, and for a plan that takes none.
Result<PromptWithPictures> promptWithPictures(const PromptOptions &prompt,
                                              std::span<const MediaFile> media,
                                              const Opened &opened);

// Encodes the pictures of a prompt, which the sequence, an empty one, is to be appended.
Status setPictures(Session &session, int32_t sequence, const PromptWithPictures &prompt,
                   const Opened &opened);

} // namespace moe

#endif
