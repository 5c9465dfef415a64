// The state of a running grid: warps whose registers are arrays of 32 lanes, the blocks they belong
// to, and the handlers that execute one instruction for one warp.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_WARP_H
#define MOE_RUNTIME_DEVICE_PTXSIM_WARP_H

#include "runtime/device/ptxsim/Machine.h"

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>

namespace moe::ptxsim {

inline constexpr unsigned kLanes = 32;
// Registers hold bits; these may be read as either width.
using Word [[gnu::may_alias]] = uint32_t;
using Long [[gnu::may_alias]] = uint64_t;

struct Warp;
struct Block;
struct Cluster;
struct Grid;
struct TensorBox;
// Who can see what was made known: .cta, .cluster, or .gpu and .sys.
enum Scope : uint8_t { OfBlock, OfCluster, OfGrid };
inline constexpr unsigned kScopes = 3;
// A value of 32 bits in each lane. A 64 bit register is two, seen as 32 Longs.
struct alignas(64) Slot {
  uint32_t lanes[kLanes];
};

struct Warp {
  Block *block = nullptr;
  uint16_t index = 0; // in the block
  uint32_t pc = 0;
  uint32_t lanes = 0;  // those of the current path
  uint32_t alive = 0;  // those that have not exited
  uint32_t active = 0; // those of this instruction: the path's whose guard holds

  // Paths that wait: when the pc reaches `join`, the next one continues.
  struct Path {
    uint32_t pc, lanes, join;
  };
  std::vector<Path> paths;
  uint32_t join = 0; // of the current path

  std::vector<Slot> slots;
  std::vector<uint32_t> predicates;
  const Operand *operands = nullptr; // of the entry

  // Lanes whose value depends on something never written, and the line where that began.
  std::vector<uint32_t> undefined, undefinedPredicate;
  std::vector<uint32_t> origin, originPredicate;

  enum State : uint8_t { Ready, AtBarrier, AtMbarrier, AtCluster, Done };
  State state = Ready;
  bool yields = false; // ends its turn: it polls
  uint32_t waitLine = 0;
  uint32_t waitsFor = 0; // the barrier's number, or the mbarrier's address

  // cp.async: copies not yet waited for, one record per instruction, and how many groups each lane
  // has committed.
  struct AsyncCopy {
    uint32_t lanes, bytes; // bytes: of each lane
    const Instruction *instruction;
    bool captured; // the sources were read at issue
    std::array<uint32_t, kLanes> to, group;
    std::array<uint8_t, kLanes> read; // the rest is zero
    std::array<uint64_t, kLanes> from;
    std::array<uint8_t, kLanes * 16> data, written; // shadow of `data`
  };
  std::vector<std::unique_ptr<AsyncCopy>> copies, spareCopies;
  std::array<uint32_t, kLanes> committed{};
  // cp.async.bulk from shared to global memory.
  struct BulkStore {
    uint32_t from, bytes, line;
    uint8_t lane;
    uint32_t group;
    uint64_t to;
    std::shared_ptr<const TensorBox> box; // in place of `to`
  };
  std::vector<BulkStore> stores;
  std::array<uint32_t, kLanes> committedBulk{};
  // barrier.cluster: lanes that have arrived and not waited yet, and the phase in which they did.
  uint32_t clusterLanes = 0, clusterPhase = 0;

  // wgmma: products not yet waited for.
  struct Product {
    uint32_t group;
    const Instruction *instruction;
    std::vector<uint32_t> shared;                       // addresses of 16 bytes that it reads
    std::vector<std::pair<uint16_t, uint32_t>> results; // slots, and lanes that are undefined
  };
  std::vector<Product> products;
  uint32_t committedProducts = 0;
  std::vector<Slot> fencedRegisters; // as the last wgmma.fence saw them

  uint32_t laneEpoch = 1;   // how often its lanes have met
  bool wroteShared = false; // since then
  Clocks clocks;
  uint32_t segment = 0;         // the current one, once it has accessed anything
  bool dependenciesMet = false; // it has seen griddepcontrol.wait
  // By scope: what it knew at its last fence of that scope or a wider one, and what relaxed reads
  // have shown since the last one.
  std::array<std::unique_ptr<Clocks>, kScopes> released, acquired;
  std::unique_ptr<Clocks> proxied; // what it knew at its last fence.proxy.async
  Allocation *recent = nullptr;    // of its last global access
  std::vector<uint8_t> local;      // 32 times Entry::localBytes

  Word *words(uint16_t slot) { return slots[slot].lanes; }
  Long *longs(uint16_t slot) { return reinterpret_cast<Long *>(slots[slot].lanes); }
  const Operand &operand(const Instruction &i, unsigned group, unsigned element = 0) const {
    return operands[i.first + i.starts[group] + element];
  }
  // Of a register or an immediate, zero-extended.
  uint64_t read(const Operand &o, unsigned lane) {
    return o.bits == 64 ? longs(o.slot)[lane] : words(o.slot)[lane];
  }
  void write(const Operand &o, unsigned lane, uint64_t value) {
    if (o.kind == Operand::Sink)
      return;
    if (o.bits == 64)
      longs(o.slot)[lane] = value;
    else
      words(o.slot)[lane] = uint32_t(o.bits == 16 ? value & 0xffff : value);
  }
  bool readPredicate(const Operand &o, unsigned lane) const {
    return ((predicates[o.slot] >> lane & 1) != 0) != o.negated;
  }
  void writePredicate(const Operand &o, uint32_t values) {
    if (o.kind != Operand::Predicate)
      return;
    predicates[o.slot] = (predicates[o.slot] & ~active) | (values & active);
    undefinedPredicate[o.slot] &= ~active;
  }
  // Marks the active lanes of a register as defined, but for those of BAD.
  void define(const Operand &o, uint32_t bad, uint32_t line);
  uint32_t undefinedLanes(const Operand &o) const {
    return o.kind == Operand::Predicate ? undefinedPredicate[o.slot]
           : o.kind == Operand::Sink    ? 0
                                        : undefined[o.slot];
  }
  uint32_t originOf(const Operand &o) const {
    return o.kind == Operand::Predicate ? originPredicate[o.slot] : origin[o.slot];
  }
  // Reports that WHAT depends on a value nobody wrote, if it does.
  bool requireDefined(const Instruction &, const Operand &, const char *what);
  // Reports unless all lanes that are alive execute this instruction.
  bool requireConverged(const Instruction &);
};

struct Barrier {
  unsigned arrived = 0;  // threads
  unsigned expected = 0; // threads; 0: all of the block
  std::vector<Warp *> waiting;
  std::optional<Clocks> clocks;
  uint32_t votes = 0; // bar.red: count of threads, and whether any and all hold
  bool any = false, all = true;
};

struct Mbarrier {
  uint32_t expected = 0; // arrivals per phase
  int64_t pending = 0;   // arrivals to come
  int64_t bytes = 0;     // of asynchronous copies to come
  uint64_t phase = 0;    // completed phases
  const Warp *initialiser = nullptr;
  uint32_t initialised = 0; // its clock then
  // What arrivals made known to waits of .cta, and to those of .cluster; of this phase, and of the
  // last one.
  std::array<std::optional<Clocks>, 2> gathered, completed;
};

// cp.async.bulk into shared memory, which ends by completing bytes of an mbarrier. Kept by the
// block that receives it.
struct BulkLoad {
  uint32_t to, bytes, mbarrier;
  uint64_t from;                        // global, or an offset in the memory of `source`
  std::shared_ptr<const TensorBox> box; // in place of `from`
  Block *source;                        // of a copy between blocks
  Warp *warp;
  const Instruction *instruction;
  uint8_t lane;
  uint32_t segment;
  Clocks clocks;
};

struct Block {
  Grid *grid = nullptr;
  std::shared_ptr<Cluster> cluster;
  uint32_t index = 0, rank = 0; // in the grid, in the cluster
  std::array<uint32_t, 3> id{};
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<uint8_t> shared, shadow;  // from address 0
  std::vector<Access> writers, readers; // of each word of `shared`
  std::vector<uint32_t> laneWrites;     // and epoch, warp and lane of its last write
  uint32_t firstSegment = 0;            // what is older is not of this block
  // Warps that executed griddepcontrol.wait, and when.
  std::vector<std::pair<uint32_t, uint32_t>> waited;
  std::array<Barrier, 16> barriers;
  std::map<uint32_t, Mbarrier> mbarriers;
  std::vector<BulkLoad> loads;
  // What releases at a shared or global address made known to this block.
  std::map<uint64_t, Clocks> published;
  // Warps of other blocks that touched its shared memory last when their clocks stood there.
  struct Visit {
    uint32_t clock, line;
  };
  std::map<const Warp *, Visit> visits;
  unsigned aliveThreads() const;
  bool done() const;
};

struct Cluster {
  std::vector<Block *> blocks; // by rank
  uint32_t arrived = 0;        // threads, at barrier.cluster
  uint32_t phase = 1;
  std::optional<Clocks> gathered, known;
  std::map<uint64_t, Clocks> published; // to its blocks, by global or shared::cluster address
  unsigned aliveThreads() const;
  bool done() const;
  Block *find(uint32_t index) const; // the block with that index in the grid, or null
};

// Blocks that have ended, whose memory the next ones take over.
struct BlockPool {
  std::vector<std::unique_ptr<Block>> blocks;
};

struct Grid {
  const Module &module;
  const Entry &entry;
  const Launch &launch;
  Memory &memory;
  const Options &options;
  BlockPool &pool;
  std::array<uint32_t, 3> cluster; // blocks
  std::vector<std::unique_ptr<Block>> blocks;
  std::map<uint64_t, Clocks> published; // to all blocks, by global address
  std::mt19937_64 random;
  Stats stats;
  Segments segments;
  bool waited = false;       // griddepcontrol.wait was executed
  uint64_t lastProgress = 0; // in instructions
  std::optional<Error> violation;

  bool coin() { return random() & 1; }
  void progress() { lastProgress = stats.instructions; }
  void report(const Warp &, const Instruction &, unsigned lane, const std::string &what);
};

// Begins a new segment of a warp, after it made known what it did.
inline void advance(Warp &warp) {
  ++warp.clocks.own[warp.index];
  warp.segment = 0;
}
// The lanes of a warp have waited for each other.
inline void meetLanes(Warp &warp) {
  warp.wroteShared = false;
  if (++warp.laneEpoch >> 22)
    warp.laneEpoch = 1;
}
inline unsigned firstLane(uint32_t lanes) { return unsigned(__builtin_ctz(lanes)); }
std::string hexText(uint64_t value);

// Removes the active lanes from the warp, and goes on with a path that waits.
void exitLanes(Warp &);
// Takes up the path that waits once the pc is where its lanes join.
void joinPaths(Warp &);
// Ends the copies of the active lanes but for the newest KEEP groups.
void finishCopies(Warp &, const Instruction &, uint32_t keep, bool all);
// Reports copies that read the shared memory of a warp that is done.
void requireStoresDone(Warp &, const Instruction &);
// COUNT arrivals, or bytes of a copy, at an mbarrier, which may complete its phase. CLOCKS, if any,
// become known to those who wait with that scope.
void arriveAt(Block &, uint32_t address, int64_t count, int64_t bytes, const Clocks *ofBlock,
              const Clocks *ofCluster);
// Releases a barrier all of whose threads have come.
void completeBarrier(Block &, unsigned number);
void completeClusterBarrier(Cluster &);
// Reports copies and blocks of the cluster that may still touch the memory of a block that ends.
void requireMemoryQuiet(Warp &, const Instruction &);

// What executes an instruction of that kind, or null when there is none.
Handler selectInteger(const Entry &, const Instruction &);
Handler selectFloat(const Entry &, const Instruction &);
Handler selectPacked(const Entry &, const Instruction &);
Handler selectMove(const Entry &, const Instruction &);
Handler selectConvert(const Entry &, const Instruction &);
Handler selectLoadStore(const Entry &, const Instruction &);
Handler selectAtomic(const Entry &, const Instruction &);
Handler selectAsync(const Entry &, const Instruction &);
Handler selectBulk(const Entry &, const Instruction &);
Handler selectTensorCopy(const Entry &, const Instruction &);
Handler selectCluster(const Entry &, const Instruction &);
Handler selectMbarrier(const Entry &, const Instruction &);
Handler selectControl(const Entry &, const Instruction &);
Handler selectCollective(const Entry &, const Instruction &);
Handler selectTensor(const Entry &, const Instruction &);
Handler selectWgmma(const Entry &, const Instruction &);

} // namespace moe::ptxsim

#endif
