// Encodes tensor maps in a form of our own, since that of the hardware is not published, and walks
// the elements of boxes.
#include "runtime/device/ptxsim/TensorBox.h"

#include "runtime/device/ptxsim/Memory.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace moe::ptxsim {

namespace {

constexpr uint64_t kMagic = 0x706d726f736e6574; // "tensormp"

// What the 128 bytes hold.
struct Encoded {
  uint64_t magic, check, address;
  uint64_t stride[4];
  uint32_t size[5];
  uint16_t box[5];
  uint8_t traversal[5];
  uint8_t rank, elementBytes, swizzle, fillsNan, pad;
  uint16_t nan, nanHigh;
};
static_assert(sizeof(Encoded) <= TensorMap::bytes);

// FNV-1a, of all but the check itself.
uint64_t checksum(const Encoded &encoded) {
  Encoded copy = encoded;
  copy.check = 0;
  uint64_t hash = 0xcbf29ce484222325;
  for (std::byte each : std::as_bytes(std::span(&copy, 1)))
    hash = (hash ^ uint8_t(each)) * 0x100000001b3;
  return hash;
}

} // namespace

uint32_t TensorMap::boxBytes() const {
  uint32_t result = elementBytes;
  for (unsigned d = 0; d < rank; ++d)
    result *= count(d);
  return result;
}

Status TensorMap::check() const {
  auto wrong = [](std::string what) { return Error{Code::InvalidArgument, std::move(what)}; };
  auto text = [](uint64_t number) { return std::to_string(number); };
  if (rank == 0 || rank > mostRank)
    return wrong("a tensor of rank " + text(rank) + ", expected 1 to 5");
  if (address % 16)
    return wrong("the tensor's address is not a multiple of 16");
  for (unsigned d = 0; d < rank; ++d) {
    std::string of = " of dimension " + text(d);
    if (size[d] == 0)
      return wrong("the size" + of + " is 0");
    if (box[d] == 0 || box[d] > 256)
      return wrong("the box" + of + " is " + text(box[d]) + ", expected 1 to 256");
    if (traversal[d] == 0 || traversal[d] > 8)
      return wrong("the element stride" + of + " is " + text(traversal[d]) + ", expected 1 to 8");
    if (d && (stride[d] % 16 || stride[d] >= uint64_t(1) << 40))
      return wrong("the stride" + of + " is " + text(stride[d]) +
                   " bytes, expected a multiple of 16 below 2^40");
  }
  uint64_t row = uint64_t(count(0)) * elementBytes;
  if (row % 16)
    return wrong("a row of the box has " + text(row) + " bytes, expected a multiple of 16");
  if (swizzle && row > swizzle)
    return wrong("a row of the box has " + text(row) + " bytes, more than the swizzle's " +
                 text(swizzle));
  return ok();
}

std::array<std::byte, TensorMap::bytes> TensorMap::encode() const {
  Encoded encoded{};
  encoded.magic = kMagic;
  encoded.address = address;
  for (unsigned d = 0; d < rank; ++d) {
    if (d)
      encoded.stride[d - 1] = stride[d];
    encoded.size[d] = size[d];
    encoded.box[d] = uint16_t(box[d]);
    encoded.traversal[d] = uint8_t(traversal[d]);
  }
  encoded.rank = uint8_t(rank);
  encoded.elementBytes = uint8_t(elementBytes);
  encoded.swizzle = uint8_t(swizzle);
  encoded.fillsNan = fillsNan;
  encoded.nan = nan;
  encoded.nanHigh = nanHigh;
  encoded.check = checksum(encoded);
  std::array<std::byte, bytes> result{};
  std::memcpy(result.data(), &encoded, sizeof encoded);
  return result;
}

std::optional<TensorMap> TensorMap::decode(std::span<const std::byte, bytes> from) {
  Encoded encoded;
  std::memcpy(&encoded, from.data(), sizeof encoded);
  if (encoded.magic != kMagic || encoded.check != checksum(encoded))
    return std::nullopt;
  TensorMap map;
  map.rank = encoded.rank;
  map.elementBytes = encoded.elementBytes;
  map.swizzle = encoded.swizzle;
  map.fillsNan = encoded.fillsNan;
  map.nan = encoded.nan;
  map.nanHigh = encoded.nanHigh;
  map.address = encoded.address;
  for (unsigned d = 0; d < mostRank; ++d) {
    map.size[d] = encoded.size[d];
    map.stride[d] = d ? encoded.stride[d - 1] : encoded.elementBytes;
    map.box[d] = encoded.box[d];
    map.traversal[d] = encoded.traversal[d];
  }
  return map.check() ? std::optional(map) : std::nullopt;
}

bool TensorBox::eachPiece(const std::function<bool(uint32_t, uint64_t, uint32_t)> &each) const {
  uint32_t row = map.count(0), rows = map.boxBytes() / map.elementBytes / row;
  for (uint32_t n = 0; n < rows; ++n) {
    uint64_t address = map.address;
    bool inside = true;
    for (uint32_t d = 1, rest = n; d < map.rank; ++d) {
      int64_t at = int64_t(start[d]) + int64_t(rest % map.count(d)) * map.traversal[d];
      rest /= map.count(d);
      inside &= at >= 0 && at < int64_t(map.size[d]);
      address += uint64_t(at) * map.stride[d];
    }
    // Elements of the row that lie inside, one by one unless they follow each other.
    for (uint32_t e = 0; e < row && inside;) {
      int64_t at = int64_t(start[0]) + int64_t(e) * map.traversal[0];
      uint32_t count = 1;
      if (at >= 0 && at < int64_t(map.size[0])) {
        if (map.traversal[0] == 1)
          count = uint32_t(std::min<int64_t>(row - e, int64_t(map.size[0]) - at));
        if (!each((n * row + e) * map.elementBytes, address + uint64_t(at) * map.elementBytes,
                  count * map.elementBytes))
          return false;
      }
      e += count;
    }
  }
  return true;
}

uint32_t TensorBox::place(uint32_t base, uint32_t offset) const {
  uint32_t at = base + offset;
  return map.swizzle ? at ^ (at >> 7 & (map.swizzle / 16 - 1)) << 4 : at;
}

void TensorBox::read(Memory &memory, uint32_t to, uint8_t *data, uint8_t *written) const {
  uint32_t bytes = map.boxBytes();
  std::vector<uint8_t> values(bytes), states(bytes, uint8_t(Byte::Written));
  if (map.fillsNan)
    for (uint32_t at = 0; at < bytes; at += map.elementBytes) {
      std::memcpy(&values[at], &map.nan, 2);
      if (map.elementBytes > 2) // NaN of wider types has zeros below its upper half
        std::memcpy(&values[at + map.elementBytes - 2], &map.nanHigh, 2);
    }
  eachPiece([&](uint32_t offset, uint64_t address, uint32_t count) {
    if (Allocation *from = memory.find(address)) {
      std::memcpy(&values[offset], from->data.get() + (address - from->base), count);
      std::memcpy(&states[offset], from->shadow.get() + (address - from->base), count);
    }
    return true;
  });
  for (uint32_t offset = 0; offset < bytes; offset += 16) {
    uint32_t at = place(to, offset) - to;
    std::memcpy(data + at, &values[offset], 16);
    std::memcpy(written + at, &states[offset], 16);
  }
}

void TensorBox::write(Memory &memory, const uint8_t *sharedMemory) const {
  eachPiece([&](uint32_t offset, uint64_t address, uint32_t count) {
    Allocation *to = memory.find(address);
    for (uint32_t done = 0; done < count && to;) {
      uint32_t at = offset + done, piece = std::min(count - done, 16 - at % 16);
      std::memcpy(to->data.get() + (address - to->base) + done, sharedMemory + place(shared, at),
                  piece);
      done += piece;
    }
    if (to)
      std::memset(to->shadow.get() + (address - to->base), int(Byte::Written), count);
    return true;
  });
}

} // namespace moe::ptxsim
