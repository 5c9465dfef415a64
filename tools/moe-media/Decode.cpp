#include "tools/moe-media/Decode.h"

#include "tools/moe-media/Formats.h"

#include <string_view>

namespace moe {
namespace {

std::string_view start(FileBytes file) {
  return {reinterpret_cast<const char *>(file.data()), std::min<size_t>(file.size(), 512)};
}

bool has(std::string_view text, size_t at, std::string_view what) {
  return text.size() >= at && text.substr(at).starts_with(what);
}

// Of an ISO base media file: the first brand of its first box.
std::string_view brand(std::string_view text) {
  return has(text, 4, "ftyp") && text.size() >= 12 ? text.substr(8, 4) : std::string_view();
}

// What is known and not read, for the sentence that says so.
const char *nameOfOther(std::string_view text) {
  using namespace std::literals;
  if (has(text, 0, "%PDF-"))
    return "a PDF file";
  if (has(text, 0, "II*\0"sv) || has(text, 0, "MM\0*"sv) || has(text, 0, "II+\0"sv))
    return "a TIFF file";
  for (const std::string_view name : {"heic", "heix", "heim", "heis", "hevc", "mif1", "msf1"})
    if (brand(text) == name)
      return "a HEIF file";
  if (!brand(text).empty() || has(text, 0, "\x1a\x45\xdf\xa3") || has(text, 8, "AVI "))
    return "a film";
  if (has(text, 0, "BM"))
    return "a BMP file";
  if (has(text, 0, "\xff\x0a") || has(text, 0, "\0\0\0\x0cJXL "sv))
    return "a JPEG XL file";
  if (has(text, 0, "\0\0\0\x0cjP  "sv) || has(text, 0, "\xff\x4f\xff\x51"))
    return "a JPEG 2000 file";
  if (has(text, 0, "\0\0\1\0"sv))
    return "an icon file";
  if (has(text, 0, "8BPS"))
    return "a Photoshop file";
  if (has(text, 0, "P5") || has(text, 0, "P3") || has(text, 0, "P4"))
    return "a Netpbm file of another kind than P6";
  if (text.find("<svg") != text.npos)
    return "an SVG file";
  if (has(text, 0, "<"))
    return "a file of XML or HTML";
  return nullptr;
}

} // namespace

FileType typeOf(FileBytes file) {
  const std::string_view text = start(file);
  if (has(text, 0, "\xff\xd8\xff"))
    return FileType::Jpeg;
  if (has(text, 0, "\x89PNG\r\n\x1a\n"))
    return FileType::Png;
  if (has(text, 0, "RIFF") && has(text, 8, "WEBP"))
    return FileType::Webp;
  if (has(text, 0, "GIF87a") || has(text, 0, "GIF89a"))
    return FileType::Gif;
  if (brand(text) == "avif" || brand(text) == "avis")
    return FileType::Avif;
  return FileType::Other;
}

Error damagedFile(const char *type, const std::string &why) {
  return {Code::InvalidArgument, "the " + std::string(type) + " file is damaged: " + why};
}

Result<Picture> decode(FileBytes file) {
  const auto decoder = [&]() -> Result<Decoded> (*)(FileBytes) {
    switch (typeOf(file)) {
    case FileType::Jpeg:
      return decodeJpeg;
    case FileType::Png:
      return decodePng;
    case FileType::Webp:
      return decodeWebp;
    case FileType::Gif:
      return kReadsGif ? decodeGif : nullptr;
    case FileType::Avif:
      return kReadsAvif ? decodeAvif : nullptr;
    case FileType::Other:
      break;
    }
    return nullptr;
  }();
  if (!decoder) {
    const char *name = typeOf(file) == FileType::Gif    ? "a GIF file"
                       : typeOf(file) == FileType::Avif ? "an AVIF file"
                                                        : nameOfOther(start(file));
    return Error{Code::InvalidArgument, std::string("the file is ") +
                                            (name ? name : "no picture of a known type") + "; " +
                                            kTypes + " and PPM are read"};
  }
  MOE_ASSIGN(decoded, decoder(file));
  return orient(std::move(decoded.picture), decoded.orientation);
}

} // namespace moe
