#include "runtime/vision/ToRgb.h"
#include "tools/moe-media/Exif.h"

#include <memory>

#include <webp/decode.h>
#include <webp/demux.h>

namespace moe {
namespace {

using Demuxer = std::unique_ptr<WebPDemuxer, decltype(&WebPDemuxDelete)>;

// The first picture of an animation, on its canvas.
Result<Decoded> decodeAnimation(const WebPData &data, int32_t width, int32_t height) {
  WebPAnimDecoderOptions options;
  WebPAnimDecoderOptionsInit(&options);
  options.color_mode = MODE_RGBA;
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(
      WebPAnimDecoderNew(&data, &options), WebPAnimDecoderDelete);
  uint8_t *pixels = nullptr;
  int time = 0;
  if (!decoder || !WebPAnimDecoderGetNext(decoder.get(), &pixels, &time))
    return damagedFile("WebP", "its first frame cannot be decoded");
  const size_t count = size_t(width) * size_t(height);
  Decoded decoded{{width, height, std::vector<uint8_t>(count * 3)}};
  rgbAndAlphaToRgb(pixels, count, decoded.picture.rgb.data());
  return decoded;
}

} // namespace

Result<Decoded> decodeWebp(FileBytes file) {
  const auto *bytes = reinterpret_cast<const uint8_t *>(file.data());
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(bytes, file.size(), &features) != VP8_STATUS_OK)
    return damagedFile("WebP", "it has no valid header");
  const int32_t width = features.width, height = features.height;
  MOE_TRY(checkPictureSize(width, height));
  const WebPData data{bytes, file.size()};
  Orientation orientation = Orientation::AsItIs;
  const Demuxer demuxer(WebPDemux(&data), WebPDemuxDelete);
  if (!demuxer)
    return damagedFile("WebP", "it is cut short, or its parts do not fit");
  if (int32_t(WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH)) != width ||
      int32_t(WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT)) != height)
    return damagedFile("WebP", "its headers have different sizes");
  WebPChunkIterator chunk;
  if (WebPDemuxGetChunk(demuxer.get(), "EXIF", 1, &chunk))
    orientation = exifOrientation(std::as_bytes(std::span(chunk.chunk.bytes, chunk.chunk.size)));
  WebPDemuxReleaseChunkIterator(&chunk);

  if (features.has_animation) {
    MOE_ASSIGN(decoded, decodeAnimation(data, width, height));
    decoded.orientation = orientation;
    return std::move(decoded);
  }
  const size_t count = size_t(width) * size_t(height);
  Decoded decoded{{width, height, std::vector<uint8_t>(count * 3)}, orientation};
  std::vector<uint8_t> &rgb = decoded.picture.rgb;
  if (!features.has_alpha) {
    if (!WebPDecodeRGBInto(bytes, file.size(), rgb.data(), rgb.size(), 3 * width))
      return damagedFile("WebP", "its pixels cannot be decoded");
    return decoded;
  }
  std::vector<uint8_t> pixels(count * 4);
  if (!WebPDecodeRGBAInto(bytes, file.size(), pixels.data(), pixels.size(), 4 * width))
    return damagedFile("WebP", "its pixels cannot be decoded");
  rgbAndAlphaToRgb(pixels.data(), count, rgb.data());
  return decoded;
}

} // namespace moe
