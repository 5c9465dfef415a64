// Tensor maps, which describe tensors in global memory to the copy unit, and the boxes that it
// moves.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_TENSORBOX_H
#define MOE_RUNTIME_DEVICE_PTXSIM_TENSORBOX_H

#include "runtime/Status.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace moe::ptxsim {

class Memory;

struct TensorMap {
  static constexpr unsigned mostRank = 5;
  static constexpr size_t bytes = 128; // of the encoded form
  static constexpr size_t align = 64;

  unsigned rank = 0;
  unsigned elementBytes = 0;
  unsigned swizzle = 0;  // bytes of a row that is permuted: 32, 64, 128, or 0
  bool fillsNan = false; // what lies outside is NaN; else zero
  uint16_t nan = 0;      // the low 16 bits of one, by type; those above are nanHigh
  uint16_t nanHigh = 0;
  uint64_t address = 0;
  std::array<uint32_t, mostRank> size{};      // elements, innermost dimension first
  std::array<uint64_t, mostRank> stride{};    // bytes; the first is elementBytes
  std::array<uint32_t, mostRank> box{};       // elements of the tensor that a box spans
  std::array<uint32_t, mostRank> traversal{}; // every so many of them are copied

  uint32_t count(unsigned dimension) const { // elements of the box that are copied
    return (box[dimension] + traversal[dimension] - 1) / traversal[dimension];
  }
  uint32_t boxBytes() const;

  // What is wrong with it, as cuTensorMapEncodeTiled would have it.
  Status check() const;
  std::array<std::byte, bytes> encode() const;
  // Nothing, unless `encode` wrote these bytes.
  static std::optional<TensorMap> decode(std::span<const std::byte, bytes>);
};

// A box of a tensor and where it lies in shared memory.
struct TensorBox {
  TensorMap map;
  std::array<int32_t, TensorMap::mostRank> start{}; // coordinates; may lie outside
  uint32_t shared = 0;                              // offset in the block's shared memory

  // Calls EACH(offset in the box, global address, bytes) for every piece that lies inside of the
  // tensor, as long as it returns true; whether all did.
  bool eachPiece(const std::function<bool(uint32_t, uint64_t, uint32_t)> &each) const;
  // Where the byte at an offset of the box lies behind BASE: swizzles follow the address.
  uint32_t place(uint32_t base, uint32_t offset) const;

  // Copies the box from global memory to DATA, which lies at offset TO of shared memory, and
  // whether its bytes were written. What lies outside is filled.
  void read(Memory &, uint32_t to, uint8_t *data, uint8_t *written) const;
  // Copies it to global memory from all of the block's shared memory.
  void write(Memory &, const uint8_t *sharedMemory) const;
};

} // namespace moe::ptxsim

#endif
