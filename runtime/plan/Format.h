// The parts of a plan file outside its sections and index, shared by its writer and its reader.
#ifndef MOE_RUNTIME_PLAN_FORMAT_H
#define MOE_RUNTIME_PLAN_FORMAT_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace moe {

// A reader takes files of its own major version. What a newer minor version adds may be ignored,
// unless a bit of `features` that the reader does not know says otherwise.
inline constexpr uint16_t kPlanMajor = 3, kPlanMinor = 3;
inline constexpr uint32_t kPlanFeatures = 0; // bits of `features` that this reader knows

inline constexpr uint64_t kSectionAlignment = 4096;
inline constexpr uint64_t kTensorAlignment = 64;

// The first 64 bytes of every plan, whatever its version; little endian.
struct Header {
  char magic[8];         // "MOEPLAN"
  uint16_t major, minor; // format of the rest of the file
  uint32_t features;     // bits that a reader must know
  uint64_t indexOffset;  // a multiple of 4096
  uint64_t indexLength;  // the index is the end of the file
  uint64_t indexHash;
  char writer[16]; // "moec 0.1.0", for messages
  uint64_t hash;   // of the bytes before
};
static_assert(sizeof(Header) == 64);

inline constexpr char kPlanMagic[8] = "MOEPLAN";

// The hash of header, index and sections: XXH3, 64 bits.
inline uint64_t hashBytes(const void *data, size_t size) { return XXH3_64bits(data, size); }

inline uint64_t headerHash(const Header &header) {
  return hashBytes(&header, offsetof(Header, hash));
}

inline Header makeHeader(uint64_t indexOffset, uint64_t indexLength, uint64_t indexHash,
                         std::string_view writer) {
  Header header = {};
  std::memcpy(header.magic, kPlanMagic, sizeof(header.magic));
  header.major = kPlanMajor;
  header.minor = kPlanMinor;
  header.indexOffset = indexOffset;
  header.indexLength = indexLength;
  header.indexHash = indexHash;
  std::memcpy(header.writer, writer.data(), std::min(writer.size(), sizeof(header.writer)));
  header.hash = headerHash(header);
  return header;
}

} // namespace moe

#endif
