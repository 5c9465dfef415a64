#include "runtime/vision/Ppm.h"

#include <cstring>
#include <string_view>

namespace moe {
namespace {

constexpr size_t kMaxHeader = 4096; // bytes, comments among them
constexpr size_t kMaxDigits = 9;    // of a number, so that it fits 32 bits

Error damaged(const std::string &what) { return {Code::InvalidArgument, "the PPM file " + what}; }

struct Header {
  int32_t width = 0, height = 0;
  size_t bytes = 0;
};

bool isSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The header, or nothing if it goes on after these bytes.
Result<std::optional<Header>> readHeader(std::string_view text) {
  if (!std::string_view("P6").starts_with(text.substr(0, 2)))
    return Error{Code::InvalidArgument, "this is no PPM file: it does not begin with P6"};
  if (text.size() < 2)
    return std::optional<Header>();
  const std::string_view header = text.substr(0, kMaxHeader);
  const auto cut = [&]() -> Result<std::optional<Header>> {
    if (text.size() >= kMaxHeader)
      return damaged("has a header of more than " + std::to_string(kMaxHeader) + " bytes");
    return std::optional<Header>();
  };
  size_t at = 2;
  int32_t numbers[3] = {}; // width, height, largest value
  for (int32_t &number : numbers) {
    const size_t before = at;
    while (at < header.size() && (isSpace(header[at]) || header[at] == '#')) {
      if (header[at] == '#')
        at = std::min(header.find_first_of("\n\r", at), header.size());
      else
        ++at;
    }
    const size_t first = at;
    const auto isDigit = [&] { return header[at] >= '0' && header[at] <= '9'; };
    while (at < header.size() && isDigit() && at - first < kMaxDigits)
      number = number * 10 + (header[at++] - '0');
    if (at == header.size())
      return cut();
    if (isDigit())
      return damaged("has a number of more than " + std::to_string(kMaxDigits) +
                     " digits in its header");
    if (first == before || at == first)
      return damaged("has no width, height and largest value in its header");
  }
  if (!isSpace(header[at]))
    return damaged("has no white space between its header and its pixels");
  MOE_TRY(checkPictureSize(numbers[0], numbers[1]));
  if (numbers[2] != 255)
    return damaged("has values up to " + std::to_string(numbers[2]) +
                   ", only those up to 255 are read; netpbm's `pamdepth 255` makes one of it");
  return std::optional(Header{numbers[0], numbers[1], at + 1});
}

} // namespace

bool isPpm(std::span<const std::byte> file) {
  return file.size() >= 2 && char(file[0]) == 'P' && char(file[1]) == '6';
}

Result<std::optional<PpmFrame>> readPpmFrame(std::span<const std::byte> bytes) {
  MOE_ASSIGN(header, readHeader({reinterpret_cast<const char *>(bytes.data()), bytes.size()}));
  if (!header)
    return std::optional<PpmFrame>();
  const size_t pixels = size_t(header->width) * size_t(header->height) * 3;
  if (bytes.size() - header->bytes < pixels)
    return std::optional<PpmFrame>();
  PpmFrame frame{{header->width, header->height, std::vector<uint8_t>(pixels)},
                 header->bytes + pixels};
  std::memcpy(frame.picture.rgb.data(), bytes.data() + header->bytes, pixels);
  return std::optional(std::move(frame));
}

Result<Picture> readPpm(std::span<const std::byte> file) {
  MOE_ASSIGN(frame, readPpmFrame(file));
  if (!frame)
    return damaged("is cut short: it ends before its last pixel");
  if (frame->bytes != file.size())
    return damaged("goes on after its last pixel, by " +
                   std::to_string(file.size() - frame->bytes) + " bytes; give one picture a file");
  return std::move(frame->picture);
}

} // namespace moe
