// cp.async.bulk.tensor in tile mode: boxes of up to five dimensions between global and shared
// memory.
#include "runtime/device/ptxsim/Bulk.h"
#include "runtime/device/ptxsim/TensorBox.h"

#include <algorithm>

namespace moe::ptxsim {

namespace {

constexpr uint32_t kBoxAlign = 128; // in shared memory

// Bytes of a tensor that a kernel wrote, in this launch.
bool writtenHere(const Grid &grid, const Allocation &allocation, uint64_t offset, uint64_t bytes) {
  for (uint64_t word = offset / 4; word < (offset + bytes) / 4; ++word)
    if (const Access *writer = AccessPages::find(allocation.accesses.writers, word))
      if (writer->segment() >= grid.segments.first)
        return true;
  return false;
}

// The map at the address that operand GROUP names in LANE; nothing after a report.
std::optional<TensorMap> findMap(Warp &warp, const Instruction &i, unsigned lane, unsigned group) {
  Grid &grid = *warp.block->grid;
  uint64_t address = addressOf(warp, warp.operand(i, group), lane);
  Space space = i.opcode.op == Op::Prefetch ? i.opcode.space() : Space::Generic;
  auto refuse = [&](const std::string &what) {
    grid.report(warp, i, lane, what);
    return std::nullopt;
  };
  if (address % TensorMap::align)
    return refuse("the tensor map at " + hexText(address) + " is not aligned to 64 bytes");
  std::array<std::byte, TensorMap::bytes> bytes;
  for (unsigned n = 0; n < TensorMap::bytes; n += 16) {
    Place place = reach(warp, i, lane, space, address + n, 16, Touch::Read, false);
    if (!place.data)
      return std::nullopt;
    std::copy_n(reinterpret_cast<const std::byte *>(place.data), 16, bytes.begin() + n);
  }
  if (Allocation *allocation = grid.memory.find(address))
    if (writtenHere(grid, *allocation, address - allocation->base, TensorMap::bytes))
      return refuse("the tensor map at " + hexText(address) +
                    " was written by this kernel, which is not simulated");
  auto map = TensorMap::decode(bytes);
  if (!map)
    return refuse("there is no tensor map at " + hexText(address) +
                  ": cuTensorMapEncodeTiled did not write these 128 bytes");
  if (i.opcode.dims && i.opcode.dims != map->rank)
    return refuse("a copy of " + std::to_string(i.opcode.dims) + " dimensions by the map of a " +
                  std::to_string(map->rank) + "-dimensional tensor");
  return map;
}

// The box that operand GROUP, a map and coordinates, names in LANE; its place in shared memory is
// that of operand SHARED.
std::shared_ptr<TensorBox> findBox(Warp &warp, const Instruction &i, unsigned lane, unsigned group,
                                   unsigned shared) {
  auto map = findMap(warp, i, lane, group);
  if (!map)
    return nullptr;
  auto box = std::make_shared<TensorBox>();
  box->map = *map;
  for (unsigned d = 0; d < map->rank; ++d)
    box->start[d] = int32_t(warp.read(warp.operand(i, group, d + 1), lane));
  uint64_t at = addressOf(warp, warp.operand(i, shared), lane);
  if (at % kBoxAlign) {
    warp.block->grid->report(warp, i, lane,
                             "the box at shared " + hexText(at) + " is not aligned to 128 bytes");
    return nullptr;
  }
  box->shared = uint32_t(at);
  return box;
}

// Checks the accesses to all that lies inside of the tensor. False after a report.
bool touchTensor(Warp &warp, const Instruction &i, unsigned lane, const TensorBox &box,
                 Touch touch) {
  Stats &stats = warp.block->grid->stats;
  return box.eachPiece([&](uint32_t, uint64_t address, uint32_t bytes) {
    stats.globalSectors += (address + bytes + 31) / 32 - address / 32;
    stats.globalBytes += bytes;
    if ((address | bytes) % 16 == 0) {
      Place place = reachRange(warp, i, lane, Space::Global, address, bytes, touch);
      if (place.data && touch == Touch::Write)
        markBytes(place.shadow, bytes, Byte::InFlight);
      return place.data != nullptr;
    }
    for (uint32_t done = 0; done < bytes;) {
      uint64_t at = address + done;
      uint32_t piece = std::min<uint32_t>(bytes - done, 16);
      while (at % piece || (piece & (piece - 1)))
        piece = piece & (piece - 1) ? piece & (piece - 1) : piece / 2;
      Place place = reach(warp, i, lane, Space::Global, at, piece, touch, false);
      if (!place.data)
        return false;
      if (touch == Touch::Write)
        markBytes(place.shadow, piece, Byte::InFlight);
      done += piece;
    }
    return true;
  });
}

// cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
//   [to], [map, {x, y}], [mbarrier]{, mask}{, policy};
void load(Warp &warp, const Instruction &i) {
  if (!requireOperands(warp, i))
    return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    auto box = findBox(warp, i, lane, 1, 0);
    if (!box || !touchTensor(warp, i, lane, *box, Touch::Read))
      return;
    std::optional<uint32_t> mask;
    if (i.opcode.has(Mod::Multicast))
      mask = uint32_t(warp.read(warp.operand(i, 3), lane));
    BulkLoad from{};
    from.box = box;
    if (!queueLoad(warp, i, lane, 0, 2, box->map.boxBytes(), mask, from))
      return;
  }
  advance(warp);
}

// cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [map, {x, y}], [from]{, policy};
void store(Warp &warp, const Instruction &i) {
  if (!requireOperands(warp, i))
    return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    auto box = findBox(warp, i, lane, 0, 1);
    if (!box)
      return;
    uint32_t bytes = box->map.boxBytes();
    if (!lendShared(warp, i, lane, box->shared, bytes) ||
        !touchTensor(warp, i, lane, *box, Touch::Write))
      return;
    warp.stores.push_back(
        {box->shared, bytes, i.line, uint8_t(lane), warp.committedBulk[lane], 0, std::move(box)});
  }
}

// prefetch.tensormap [map], and of a box: no effect, but there must be a map.
void prefetch(Warp &warp, const Instruction &i) {
  if (!requireOperands(warp, i))
    return;
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1 && !findMap(warp, i, lane, 0))
      return;
}

// Whether operand GROUP is a map with coordinates.
bool namesBox(const Entry &entry, const Instruction &i, unsigned group) {
  return group < i.groups && i.groupSize(group) == i.opcode.dims + 1u &&
         entry.operands[i.first + i.starts[group]].kind == Operand::Address;
}

} // namespace

Handler selectTensorCopy(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.op == Op::Prefetch && code.has(Mod::Tensormap))
    return i.groups == 1 && entry.operands[i.first].kind == Operand::Address ? prefetch : nullptr;
  if (code.op != Op::Cp || !code.has(Mod::Bulk) || !code.has(Mod::Tensor) || !code.dims ||
      code.has(Mod::Im2col))
    return nullptr;
  if (code.has(Mod::Prefetch))
    return namesBox(entry, i, 0) ? prefetch : nullptr;
  if (code.has(Mod::BulkGroup))
    return i.groups >= 2 && namesBox(entry, i, 0) ? store : nullptr;
  unsigned groups = code.has(Mod::Multicast) ? 4 : 3;
  return code.has(Mod::CompleteBytes) && i.groups >= groups && namesBox(entry, i, 1) ? load
                                                                                     : nullptr;
}

} // namespace moe::ptxsim
