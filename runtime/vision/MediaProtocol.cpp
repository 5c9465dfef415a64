#include "runtime/vision/MediaProtocol.h"

#include <algorithm>
#include <cstring>

namespace moe {
namespace {

constexpr char kMagic[] = {'M', 'O', 'E', 'P'};
constexpr uint32_t kPicture = 1, kRefusal = 2;

void put(MediaHeader &header, size_t at, uint32_t number) {
  for (size_t i = 0; i < 4; ++i)
    header[at + i] = std::byte(number >> (8 * i));
}

uint32_t get(const MediaHeader &header, size_t at) {
  uint32_t number = 0;
  for (size_t i = 0; i < 4; ++i)
    number |= uint32_t(header[at + i]) << (8 * i);
  return number;
}

MediaHeader makeHeader(uint32_t kind, uint32_t first, uint32_t second) {
  MediaHeader header;
  std::memcpy(header.data(), kMagic, sizeof kMagic);
  put(header, 4, kind);
  put(header, 8, first);
  put(header, 12, second);
  return header;
}

} // namespace

MediaHeader pictureHeader(int32_t width, int32_t height) {
  return makeHeader(kPicture, uint32_t(width), uint32_t(height));
}

MediaHeader refusalHeader(uint32_t bytes) { return makeHeader(kRefusal, bytes, 0); }

Status MediaReader::readHeader() {
  const uint32_t kind = get(header, 4), first = get(header, 8), second = get(header, 12);
  if (std::memcmp(header.data(), kMagic, sizeof kMagic) != 0 ||
      (kind != kPicture && kind != kRefusal))
    return Error{Code::IoError,
                 "moe-media answered something else than a picture; is it the one of "
                 "this version?"};
  isRefusal = kind == kRefusal;
  if (isRefusal) {
    if (first > kMaxRefusalBytes)
      return Error{Code::IoError, "moe-media refused with " + std::to_string(first) +
                                      " bytes of text, more than there may be"};
    refusal.resize(first);
    return ok();
  }
  MOE_TRY(checkPictureSize(first, second));
  picture.width = int32_t(first);
  picture.height = int32_t(second);
  picture.rgb.resize(size_t(first) * size_t(second) * 3);
  return ok();
}

bool MediaReader::isComplete() const {
  return headerBytes == header.size() &&
         bodyBytes == (isRefusal ? refusal.size() : picture.rgb.size());
}

Status MediaReader::push(std::span<const std::byte> bytes) {
  if (headerBytes < header.size()) {
    const size_t count = std::min(header.size() - headerBytes, bytes.size());
    std::copy_n(bytes.data(), count, header.data() + headerBytes);
    headerBytes += count;
    bytes = bytes.subspan(count);
    if (headerBytes < header.size())
      return ok();
    MOE_TRY(readHeader());
  }
  const std::span body = isRefusal ? std::as_writable_bytes(std::span(refusal))
                                   : std::as_writable_bytes(std::span(picture.rgb));
  if (bytes.size() > body.size() - bodyBytes)
    return Error{Code::IoError, "moe-media wrote more than the picture that it announced"};
  std::copy(bytes.begin(), bytes.end(), body.begin() + ptrdiff_t(bodyBytes));
  bodyBytes += bytes.size();
  return ok();
}

Result<Picture> MediaReader::take() {
  if (!isComplete())
    return Error{Code::IoError, "moe-media's answer is cut short"};
  if (!isRefusal)
    return std::move(picture);
  for (char &c : refusal)
    if (c < ' ' || c > '~')
      c = '?';
  return Error{Code::InvalidArgument, refusal};
}

} // namespace moe
