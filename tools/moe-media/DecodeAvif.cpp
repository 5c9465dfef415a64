#include "runtime/vision/ToRgb.h"
#include "tools/moe-media/Exif.h"

#include <memory>

#include <avif/avif.h>

namespace moe {
namespace {

struct Closer {
  void operator()(avifDecoder *decoder) const { avifDecoderDestroy(decoder); }
};

// What the file itself says of turning and mirroring, as Exif would say it. Turned before mirrored.
Orientation orientationOf(const avifImage &image) {
  const int turns =
      image.transformFlags & AVIF_TRANSFORM_IROT ? image.irot.angle : 0; // to the left
  const bool mirrored = image.transformFlags & AVIF_TRANSFORM_IMIR;
  const bool leftRight = mirrored && image.imir.mode == 1;
  using enum Orientation;
  constexpr Orientation kTurned[] = {AsItIs, Rotate270, Rotate180, Rotate90};
  constexpr Orientation kLeftRight[] = {MirrorLeftRight, Transverse, MirrorTopBottom, Transpose};
  constexpr Orientation kTopBottom[] = {MirrorTopBottom, Transpose, MirrorLeftRight, Transverse};
  return (!mirrored ? kTurned : leftRight ? kLeftRight : kTopBottom)[turns & 3];
}

} // namespace

Result<Decoded> decodeAvif(FileBytes file) {
  const std::unique_ptr<avifDecoder, Closer> decoder(avifDecoderCreate());
  if (!decoder)
    return Error{Code::ResourceExhausted, "there is no memory for an AVIF file"};
  decoder->maxThreads = 1;
  decoder->imageSizeLimit = uint32_t(kMaxPicturePixels);
  decoder->imageDimensionLimit = uint32_t(kMaxPictureSide);
  decoder->ignoreXMP = AVIF_TRUE;
  const auto *bytes = reinterpret_cast<const uint8_t *>(file.data());
  avifResult result = avifDecoderSetIOMemory(decoder.get(), bytes, file.size());
  if (result == AVIF_RESULT_OK)
    result = avifDecoderParse(decoder.get());
  if (result == AVIF_RESULT_OK)
    MOE_TRY(checkPictureSize(decoder->image->width, decoder->image->height));
  if (result == AVIF_RESULT_OK)
    result = avifDecoderNextImage(decoder.get());
  if (result != AVIF_RESULT_OK)
    return damagedFile("AVIF", avifResultToString(result));

  const avifImage &image = *decoder->image;
  MOE_TRY(checkPictureSize(image.width, image.height));
  const size_t count = size_t(image.width) * image.height;
  std::vector<uint8_t> pixels(count * 4);
  avifRGBImage rgb;
  avifRGBImageSetDefaults(&rgb, &image);
  rgb.depth = 8;
  rgb.format = AVIF_RGB_FORMAT_RGBA;
  rgb.pixels = pixels.data();
  rgb.rowBytes = image.width * 4;
  result = avifImageYUVToRGB(&image, &rgb);
  if (result != AVIF_RESULT_OK)
    return damagedFile("AVIF", avifResultToString(result));
  Decoded decoded{{int32_t(image.width), int32_t(image.height), std::vector<uint8_t>(count * 3)},
                  orientationOf(image)};
  rgbAndAlphaToRgb(pixels.data(), count, decoded.picture.rgb.data());
  return decoded;
}

} // namespace moe
