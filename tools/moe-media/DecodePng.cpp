#include "runtime/vision/ToRgb.h"
#include "tools/moe-media/Exif.h"

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <png.h>

namespace moe {
namespace {

constexpr uint32_t kMaxChunkBytes = 8 << 20; // that libpng keeps or inflates; pixels are no chunk
constexpr int kMaxChunks = 100;

// What libpng's callbacks share. No object with a destructor may live in a function that calls
// libpng, since errors jump over them.
struct Png {
  png_structp library = nullptr;
  png_infop info = nullptr;
  FileBytes rest; // of the file
  char message[128] = {};
};

void onError(png_structp library, png_const_charp message) {
  Png &png = *static_cast<Png *>(png_get_error_ptr(library));
  std::snprintf(png.message, sizeof png.message, "%s", message);
  png_longjmp(library, 1);
}

void onWarning(png_structp, png_const_charp) {}

void onRead(png_structp library, png_bytep to, size_t size) {
  Png &png = *static_cast<Png *>(png_get_io_ptr(library));
  if (size > png.rest.size())
    png_error(library, "it is cut short");
  std::memcpy(to, png.rest.data(), size);
  png.rest = png.rest.subspan(size);
}

// False: `png.message` says why.
bool readHeader(Png &png) {
  if (setjmp(png_jmpbuf(png.library)))
    return false;
  png_set_read_fn(png.library, &png, onRead);
  png_set_user_limits(png.library, kMaxPictureSide, kMaxPictureSide);
  png_set_chunk_malloc_max(png.library, kMaxChunkBytes);
  png_set_chunk_cache_max(png.library, kMaxChunks);
  png_read_info(png.library, png.info);
  return true;
}

// Whole rows of 8 bits, of one to four values: grey, grey and alpha, red .. blue, red .. alpha.
bool readPixels(Png &png, uint8_t *pixels, png_bytep *rows, size_t rowBytes, size_t height) {
  if (setjmp(png_jmpbuf(png.library)))
    return false;
  for (size_t y = 0; y < height; ++y)
    rows[y] = pixels + y * rowBytes;
  png_read_image(png.library, rows);
  return true;
}

// What comes after the pixels: Exif may. Damage there is none of the picture's.
void readRest(Png &png) {
  if (setjmp(png_jmpbuf(png.library)))
    return;
  png_read_end(png.library, png.info);
}

bool prepare(Png &png, size_t &rowBytes, int &values) {
  if (setjmp(png_jmpbuf(png.library)))
    return false;
  png_set_expand(png.library);   // palettes, few bits, a transparent colour
  png_set_strip_16(png.library); // the high byte
  png_set_interlace_handling(png.library);
  png_read_update_info(png.library, png.info);
  rowBytes = png_get_rowbytes(png.library, png.info);
  values = png_get_channels(png.library, png.info);
  return true;
}

struct Closer {
  Png &png;
  ~Closer() { png_destroy_read_struct(&png.library, &png.info, nullptr); }
};

} // namespace

Result<Decoded> decodePng(FileBytes file) {
  Png png;
  png.rest = file;
  const Closer closer{png};
  png.library = png_create_read_struct(PNG_LIBPNG_VER_STRING, &png, onError, onWarning);
  png.info = png.library ? png_create_info_struct(png.library) : nullptr;
  if (!png.info)
    return Error{Code::ResourceExhausted, "there is no memory for a PNG file"};
  if (!readHeader(png))
    return damagedFile("PNG", png.message);
  const int32_t width = int32_t(png_get_image_width(png.library, png.info));
  const int32_t height = int32_t(png_get_image_height(png.library, png.info));
  MOE_TRY(checkPictureSize(width, height));
  size_t rowBytes = 0;
  int values = 0;
  if (!prepare(png, rowBytes, values))
    return damagedFile("PNG", png.message);
  if (values < 1 || values > 4 || rowBytes != size_t(width) * size_t(values))
    return damagedFile("PNG", "its rows have an unknown layout");
  std::vector<uint8_t> pixels(rowBytes * size_t(height));
  std::vector<png_bytep> rows(static_cast<size_t>(height));
  if (!readPixels(png, pixels.data(), rows.data(), rowBytes, size_t(height)))
    return damagedFile("PNG", png.message);

  readRest(png);
  Decoded decoded{{width, height, {}}};
  png_bytep exif = nullptr;
  png_uint_32 exifBytes = 0;
  if (png_get_eXIf_1(png.library, png.info, &exifBytes, &exif))
    decoded.orientation = exifOrientation(std::as_bytes(std::span(exif, exifBytes)));
  if (values == 3) {
    decoded.picture.rgb = std::move(pixels);
    return decoded;
  }
  decoded.picture.rgb.resize(size_t(width) * size_t(height) * 3);
  const auto toRgb = values == 1 ? greyToRgb : values == 2 ? greyAndAlphaToRgb : rgbAndAlphaToRgb;
  toRgb(pixels.data(), size_t(width) * size_t(height), decoded.picture.rgb.data());
  return decoded;
}

} // namespace moe
