// Keys of pictures, by XXH3 with a secret.
#include "runtime/session/EncodedImage.h"

#include "runtime/plan/Format.h" // XXH3

#include <chrono>
#include <unistd.h>

namespace moe {
namespace {

// As many random bytes as XXH3 takes for a secret.
struct Secret {
  std::array<std::byte, XXH3_SECRET_DEFAULT_SIZE> bytes{};
  Secret() {
    if (getentropy(bytes.data(), bytes.size()) == 0)
      return;
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    XXH3_generateSecret(bytes.data(), bytes.size(), &now, sizeof now);
  }
};

const Secret &secret() {
  static const Secret made;
  return made;
}

} // namespace

Error takesNoPictures() {
  return {Code::InvalidArgument, "the plan takes no pictures: it was compiled from a checkpoint of "
                                 "text alone, or with --no-vision"};
}

ImageKey imageKey(std::span<const std::byte> tiles) {
  const auto &bytes = secret().bytes;
  const XXH128_hash_t hash =
      XXH3_128bits_withSecret(tiles.data(), tiles.size(), bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

int32_t imageToken(const ImageKey &key, int64_t row) {
  const uint64_t parts[] = {key[0], key[1], uint64_t(row)};
  const auto &bytes = secret().bytes;
  const uint64_t hash = XXH3_64bits_withSecret(parts, sizeof parts, bytes.data(), bytes.size());
  return int32_t(uint32_t(hash >> 32) | 0x80000000u);
}

} // namespace moe
