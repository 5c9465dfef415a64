// Decodes arbitrary files, with all decoders that this build has. Good seeds: test/vision/files.
#include "tools/moe-media/Decode.h"

#include <cstdlib>

using namespace moe;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const Result<Picture> picture = decode(std::as_bytes(std::span(data, size)));
  if (picture ? !checkPicture(*picture) : picture.error().message.empty())
    std::abort();
  return 0;
}
