// The first picture of a GIF, on the canvas that the file announces. What it leaves free is
// transparent, and so white.
#include "tools/moe-media/Decode.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include <gif_lib.h>

namespace moe {
namespace {

constexpr int kMaxRecords = 1000; // before the first picture

int onRead(GifFileType *gif, GifByteType *to, int size) {
  FileBytes &rest = *static_cast<FileBytes *>(gif->UserData);
  const size_t count = std::min(size_t(std::max(size, 0)), rest.size());
  std::memcpy(to, rest.data(), count);
  rest = rest.subspan(count);
  return int(count);
}

struct Closer {
  void operator()(GifFileType *gif) const { DGifCloseFile(gif, nullptr); }
};

Error failure(const GifFileType &gif) {
  const char *why = GifErrorString(gif.Error);
  return damagedFile("GIF", why ? why : "its first picture cannot be decoded");
}

// Reads blocks until the first picture's; the colour that is transparent in it, or -1.
Result<int> findPicture(GifFileType &gif) {
  int transparent = NO_TRANSPARENT_COLOR;
  for (int i = 0; i < kMaxRecords; ++i) {
    GifRecordType type;
    if (DGifGetRecordType(&gif, &type) == GIF_ERROR)
      return failure(gif);
    if (type == IMAGE_DESC_RECORD_TYPE) {
      if (DGifGetImageDesc(&gif) == GIF_ERROR)
        return failure(gif);
      return transparent;
    }
    if (type != EXTENSION_RECORD_TYPE)
      return damagedFile("GIF", "it has no picture");
    int code = 0;
    GifByteType *block = nullptr; // its length, then its bytes
    if (DGifGetExtension(&gif, &code, &block) == GIF_ERROR)
      return failure(gif);
    GraphicsControlBlock control;
    if (code == GRAPHICS_EXT_FUNC_CODE && block &&
        DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK)
      transparent = control.TransparentColor;
    while (block)
      if (DGifGetExtensionNext(&gif, &block) == GIF_ERROR)
        return failure(gif);
  }
  return damagedFile("GIF", "more than a thousand blocks come before its first picture");
}

} // namespace

Result<Decoded> decodeGif(FileBytes file) {
  FileBytes rest = file;
  int error = 0;
  const std::unique_ptr<GifFileType, Closer> gif(DGifOpen(&rest, onRead, &error));
  if (!gif)
    return damagedFile("GIF", "it has no valid header");
  MOE_TRY(checkPictureSize(gif->SWidth, gif->SHeight));
  MOE_ASSIGN(transparent, findPicture(*gif));
  const GifImageDesc &frame = gif->Image;
  const ColorMapObject *colors = frame.ColorMap ? frame.ColorMap : gif->SColorMap;
  if (!colors)
    return damagedFile("GIF", "it has no colours");
  if (frame.Width < 1 || frame.Height < 1 || frame.Left < 0 || frame.Top < 0 ||
      frame.Left + frame.Width > gif->SWidth || frame.Top + frame.Height > gif->SHeight)
    return damagedFile("GIF", "its first picture lies beside its canvas");

  const int32_t width = gif->SWidth, height = gif->SHeight;
  Decoded decoded{
      {width, height, std::vector<uint8_t>(size_t(width) * size_t(height) * 3, uint8_t(255))}};
  std::vector<GifPixelType> row(size_t(frame.Width));
  const auto readRow = [&](int y) {
    if (DGifGetLine(gif.get(), row.data(), frame.Width) == GIF_ERROR)
      return false;
    uint8_t *to =
        &decoded.picture.rgb[(size_t(frame.Top + y) * size_t(width) + size_t(frame.Left)) * 3];
    for (const GifPixelType index : row) {
      const GifColorType black{0, 0, 0};
      const GifColorType &color = index < colors->ColorCount ? colors->Colors[index] : black;
      if (index != transparent)
        to[0] = color.Red, to[1] = color.Green, to[2] = color.Blue;
      to += 3;
    }
    return true;
  };
  // All rows, or first each eighth, then those between.
  constexpr int kFirst[] = {0, 4, 2, 1}, kStep[] = {8, 8, 4, 2};
  for (int pass = 0; pass < (frame.Interlace ? 4 : 1); ++pass)
    for (int y = frame.Interlace ? kFirst[pass] : 0; y < frame.Height;
         y += frame.Interlace ? kStep[pass] : 1)
      if (!readRow(y))
        return failure(*gif);
  return decoded;
}

} // namespace moe
