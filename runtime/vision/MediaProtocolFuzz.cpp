// Feeds arbitrary answers to a MediaReader, whole and in parts. The first byte says how large the
// parts are.
#include "runtime/vision/MediaProtocol.h"

#include <cstdlib>

using namespace moe;

namespace {

Result<Picture> read(std::span<const std::byte> answer, size_t part) {
  MediaReader reader;
  for (size_t at = 0; at < answer.size(); at += part)
    MOE_TRY(reader.push(answer.subspan(at, std::min(part, answer.size() - at))));
  return reader.take();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2)
    return 0;
  const std::span answer = std::as_bytes(std::span(data + 1, size - 1));
  const Result<Picture> whole = read(answer, answer.size()), parts = read(answer, data[0] % 16 + 1);
  if (bool(whole) != bool(parts) || (whole && (*whole != *parts || !checkPicture(*whole))))
    std::abort();
  if (!whole)
    for (const char c : whole.error().message)
      if (c < ' ' || c > '~')
        std::abort();
  return 0;
}
