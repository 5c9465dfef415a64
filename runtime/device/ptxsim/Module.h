// What the simulator keeps of a PTX module: decoded instructions whose operands are dense register
// slots, the layout of its variables, and what each entry asks of a launch.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_MODULE_H
#define MOE_RUNTIME_DEVICE_PTXSIM_MODULE_H

#include "runtime/device/ptxsim/Opcode.h"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moe::ptxsim {

// Addresses of the state spaces inside the generic one. The windows are multiples of 2^32, so that
// kernels may cut a generic shared address to 32 bits, as they may on the hardware. Global memory
// lies outside the windows and has one address in both.
inline constexpr uint64_t kSharedWindow = uint64_t(1) << 48;
inline constexpr uint64_t kLocalWindow = uint64_t(2) << 48;
inline constexpr uint64_t kParamWindow = uint64_t(3) << 48;
inline constexpr uint64_t kWindowBytes = uint64_t(1) << 32;
// An address of shared::cluster has the rank of a block, plus one, above these bits; zero there
// means the block itself, so that addresses of shared::cta are valid in it.
inline constexpr unsigned kRankShift = 24;

// Static shared variables start at kSharedStatic, so that a null pointer is never valid. At most
// 48 KiB of them exist, so the dynamic part has a fixed place, aligned for 128 byte swizzles.
inline constexpr uint32_t kSharedStatic = 0x400;
inline constexpr uint32_t kSharedDynamic = 0x400 + 48 * 1024;
inline constexpr uint32_t kSharedMost =
    228 * 1024; // static and dynamic together, the largest known

struct Operand {
  enum Kind : uint8_t {
    Sink,      // _
    Register,  // slot
    Immediate, // slot holds it in every lane; value has it too
    Predicate, // slot is an index of predicates
    Address,   // slot is a 64 bit base; value is added to it
    Label,     // value is an index of instructions
  };
  Kind kind = Sink;
  uint8_t bits = 0;     // of the register: 16, 32 or 64; of an address its base: 32 or 64
  bool negated = false; // of a predicate
  bool timer = false;   // an Immediate that is %clock and the like
  uint16_t slot = 0;
  int64_t value = 0;
};

struct Warp;
struct Instruction;
// Executes an instruction for a warp.
using Handler = void (*)(Warp &, const Instruction &);

struct Instruction {
  static constexpr uint16_t always = 0xffff;
  Handler handler = nullptr; // null: nothing here executes it
  Opcode opcode;
  uint32_t first = 0;              // in Entry::operands
  uint32_t line = 0;               // of the PTX text
  uint16_t guard = always;         // predicate that must hold in a lane
  bool guardNegated = false;       // ... or must not
  uint8_t groups = 0;              // operands as written: {a, b} and p|q are one each
  std::array<uint8_t, 8> starts{}; // of each group, from `first`
  uint8_t operands = 0;            // of all groups
  // Where the lanes of a divergent branch meet again: the immediate post-dominator.
  uint32_t reconverge = 0;

  uint8_t groupSize(unsigned group) const {
    return (group + 1 < groups ? starts[group + 1] : operands) - starts[group];
  }
};

// A value that each warp finds in its registers when it starts.
struct Constant {
  enum Kind : uint8_t { Literal, Global, Special };
  Kind kind = Literal;
  uint8_t bits = 32;
  uint16_t slot = 0;
  uint64_t value = 0; // Literal: the bits. Global: an index of Module::globals. Special: see below
};

// Special registers that stay the same while a warp runs, in the order of their names.
enum class Special : uint8_t {
// clang-format off: it has no stable layout for this list
#define MOE_PTX_SPECIALS(X)                                                                        \
  X(TidX, "%tid.x") X(TidY, "%tid.y") X(TidZ, "%tid.z") X(NtidX, "%ntid.x") X(NtidY, "%ntid.y")    \
  X(NtidZ, "%ntid.z") X(CtaidX, "%ctaid.x") X(CtaidY, "%ctaid.y") X(CtaidZ, "%ctaid.z")            \
  X(NctaidX, "%nctaid.x") X(NctaidY, "%nctaid.y") X(NctaidZ, "%nctaid.z") X(Laneid, "%laneid")     \
  X(Warpid, "%warpid") X(Nwarpid, "%nwarpid") X(Smid, "%smid") X(Nsmid, "%nsmid")                  \
  X(Gridid, "%gridid") X(LanemaskEq, "%lanemask_eq") X(LanemaskLt, "%lanemask_lt")                 \
  X(LanemaskLe, "%lanemask_le") X(LanemaskGt, "%lanemask_gt") X(LanemaskGe, "%lanemask_ge")        \
  X(DynamicSmem, "%dynamic_smem_size") X(TotalSmem, "%total_smem_size")                            \
  X(IsExplicitCluster, "%is_explicit_cluster") X(ClusteridX, "%clusterid.x")                       \
  X(ClusteridY, "%clusterid.y") X(ClusteridZ, "%clusterid.z") X(NclusteridX, "%nclusterid.x")      \
  X(NclusteridY, "%nclusterid.y") X(NclusteridZ, "%nclusterid.z")                                  \
  X(ClusterCtaidX, "%cluster_ctaid.x") X(ClusterCtaidY, "%cluster_ctaid.y")                        \
  X(ClusterCtaidZ, "%cluster_ctaid.z") X(ClusterNctaidX, "%cluster_nctaid.x")                      \
  X(ClusterNctaidY, "%cluster_nctaid.y") X(ClusterNctaidZ, "%cluster_nctaid.z")                    \
  X(ClusterCtarank, "%cluster_ctarank") X(ClusterNctarank, "%cluster_nctarank")
// clang-format on
#define MOE_X(id, name) id,
  MOE_PTX_SPECIALS(MOE_X)
#undef MOE_X
  // These change while a warp runs: `mov` reads them anew.
  Clock,
  Clock64,
  Globaltimer,
  None
};

struct Variable {
  std::string name;
  Space space = Space::Generic;
  uint64_t offset = 0; // in its space; Global: nothing yet
  uint64_t bytes = 0;
  uint32_t align = 1;
  bool dynamic = false; // extern shared: as large as the launch says
  std::vector<uint8_t> initial;
};

struct Entry {
  std::string name;
  std::vector<Variable> params;
  std::vector<Variable> shared; // its own and those of the module that it names, static ones first
  std::vector<Instruction> code;
  std::vector<Operand> operands;
  std::vector<Constant> constants;
  uint32_t slots = 0; // 32 lanes of 32 bits each
  // Slots that wgmma uses, and the place of each slot among them.
  std::vector<uint16_t> productSlots, productIndex;
  uint32_t predicates = 0;
  uint32_t paramBytes = 0;
  uint32_t localBytes = 0;                                           // per lane
  std::array<uint32_t, 3> requiredBlock{}, mostThreads{}, cluster{}; // zero: not said
};

struct Module {
  unsigned version = 0;          // 80 for .version 8.0
  std::string target;            // "sm_90a"
  std::vector<Variable> globals; // .global and .const
  std::vector<Entry> entries;

  const Entry *find(std::string_view name) const {
    for (const Entry &entry : entries)
      if (entry.name == name)
        return &entry;
    return nullptr;
  }
};

// Sets Instruction::handler.
void selectHandlers(Entry &);

} // namespace moe::ptxsim

#endif
