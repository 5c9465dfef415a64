// libjpeg-turbo with its defaults (slow integer DCT, smooth upsampling), as the references have it:
// other decoders, and its own faster ways, differ by some grey levels.
#include "runtime/vision/ToRgb.h"
#include "tools/moe-media/Exif.h"

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jerror.h>
#include <jpeglib.h>

namespace moe {
namespace {

constexpr int kMaxScans = 100; // each goes over all of the picture

// What libjpeg's callbacks share. No object with a destructor may live in a function that calls
// libjpeg, since errors jump over them.
struct Jpeg {
  jpeg_decompress_struct library{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf onError;
  char message[JMSG_LENGTH_MAX] = {};
  bool isCut = false;
};

Jpeg &jpegOf(j_common_ptr library) { return *static_cast<Jpeg *>(library->client_data); }

[[noreturn]] void fail(Jpeg &jpeg, const char *message) {
  std::snprintf(jpeg.message, sizeof jpeg.message, "%s", message);
  std::longjmp(jpeg.onError, 1);
}

void onError(j_common_ptr library) {
  Jpeg &jpeg = jpegOf(library);
  char message[JMSG_LENGTH_MAX];
  library->err->format_message(library, message);
  fail(jpeg, message);
}

// Damage that libjpeg paints over is let pass, as everywhere, but not the lack of a part.
void onMessage(j_common_ptr library, int level) {
  if (level < 0 && library->err->msg_code == JWRN_JPEG_EOF)
    jpegOf(library).isCut = true;
}

void onProgress(j_common_ptr library) {
  if (reinterpret_cast<j_decompress_ptr>(library)->input_scan_number > kMaxScans)
    fail(jpegOf(library), "it has more than 100 scans");
}

// False: `jpeg.message` says why.
bool readHeader(Jpeg &jpeg, FileBytes file) {
  if (setjmp(jpeg.onError))
    return false;
  jpeg_create_decompress(&jpeg.library);
  jpeg.library.progress = &jpeg.progress;
  jpeg_mem_src(&jpeg.library, reinterpret_cast<const unsigned char *>(file.data()), file.size());
  jpeg_save_markers(&jpeg.library, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&jpeg.library, TRUE);
  switch (jpeg.library.num_components) {
  case 1:
    jpeg.library.out_color_space = JCS_GRAYSCALE;
    return true;
  case 3:
    jpeg.library.out_color_space = JCS_RGB;
    return true;
  case 4:
    jpeg.library.out_color_space = JCS_CMYK;
    return true;
  default:
    fail(jpeg, "it has neither 1, 3 nor 4 components");
  }
}

// `row` has room for one of the decoder's rows, `rgb` for all of the picture.
bool readRows(Jpeg &jpeg, uint8_t *row, uint8_t *rgb) {
  if (setjmp(jpeg.onError))
    return false;
  jpeg_start_decompress(&jpeg.library);
  const size_t width = jpeg.library.output_width;
  while (jpeg.library.output_scanline < jpeg.library.output_height) {
    const int components = jpeg.library.out_color_components;
    JSAMPROW to = components == 3 ? rgb : row;
    jpeg_read_scanlines(&jpeg.library, &to, 1);
    if (jpeg.isCut)
      fail(jpeg, "it is cut short");
    if (components == 1)
      greyToRgb(row, width, rgb);
    else if (components == 4) // Adobe's way, inverted; as Pillow, which expects it of all
      invertedInksToRgb(row, width, rgb);
    rgb += 3 * width;
  }
  return true;
}

struct Closer {
  Jpeg &jpeg;
  ~Closer() { jpeg_destroy_decompress(&jpeg.library); }
};

} // namespace

Result<Decoded> decodeJpeg(FileBytes file) {
  Jpeg jpeg;
  jpeg.library.err = jpeg_std_error(&jpeg.errors);
  jpeg.library.client_data = &jpeg;
  jpeg.errors.error_exit = onError;
  jpeg.errors.emit_message = onMessage;
  jpeg.progress.progress_monitor = onProgress;
  const Closer closer{jpeg};
  if (!readHeader(jpeg, file))
    return damagedFile("JPEG", jpeg.message);
  const int32_t width = int32_t(jpeg.library.image_width),
                height = int32_t(jpeg.library.image_height);
  MOE_TRY(checkPictureSize(width, height));
  Decoded decoded{{width, height, std::vector<uint8_t>(size_t(width) * size_t(height) * 3)}};
  for (jpeg_saved_marker_ptr marker = jpeg.library.marker_list; marker; marker = marker->next)
    if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0) {
      decoded.orientation =
          exifOrientation(std::as_bytes(std::span(marker->data, marker->data_length)));
      break;
    }
  std::vector<uint8_t> row(size_t(width) * 4);
  if (!readRows(jpeg, row.data(), decoded.picture.rgb.data()))
    return damagedFile("JPEG", jpeg.message);
  return decoded;
}

} // namespace moe
