// What a picture is to a session: rows in place of the embeddings of its patch tokens, and a key
// that tells it from all others.
#ifndef MOE_RUNTIME_SESSION_ENCODEDIMAGE_H
#define MOE_RUNTIME_SESSION_ENCODEDIMAGE_H

#include "runtime/Status.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace moe {

// Of the bytes of a picture's tiles. The rows of a tile depend on nothing else, so that pictures
// with one key have the same rows. Keys of one process are comparable; of two they are not.
using ImageKey = std::array<uint64_t, 2>;

// Made by Session::encode; any number of sequences, and of threads, may read it.
struct EncodedImage {
  std::vector<float> rows; // [count, channels], those of each tile after those of the tile before
  int64_t count = 0;
  int64_t channels = 0; // of the model's residual stream
  ImageKey key{};

  std::span<const float> row(int64_t i) const {
    return std::span(rows).subspan(size_t(i * channels), size_t(channels));
  }
};

// A picture in a sequence: its tokens start at `position`, or after it. The patch tokens from there
// to the next picture take its rows in order.
struct ImageSpan {
  int64_t position = 0;
  std::shared_ptr<const EncodedImage> image;
};

// Of a plan without a table Vision: InvalidArgument.
Error takesNoPictures();

// Clients that could foresee keys could make two pictures with the same one, and read from a prefix
// cache what another client's picture has left there: the hash has a secret of this process.
ImageKey imageKey(std::span<const std::byte> tiles);

// What a patch token is in the prefix cache, in place of its id: a number below zero that depends
// on the picture and the row, so that pages of two pictures are two pages.
int32_t imageToken(const ImageKey &key, int64_t row);

} // namespace moe

#endif
