// The name of a PTX instruction, taken apart: "ld.global.nc.v4.b32" is an op, modifiers, a vector
// width and types.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_OPCODE_H
#define MOE_RUNTIME_DEVICE_PTXSIM_OPCODE_H

#include "runtime/Status.h"

#include <array>
#include <bitset>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace moe::ptxsim {

enum class Op : uint8_t {
// clang-format off: it has no stable layout for these lists
#define MOE_PTX_OPS(X)                                                                             \
  X(Abs, "abs") X(Activemask, "activemask") X(Add, "add") X(Addc, "addc") X(And, "and")            \
  X(Applypriority, "applypriority") X(Atom, "atom") X(Bar, "bar") X(Barrier, "barrier")            \
  X(Bfe, "bfe") X(Bfi, "bfi") X(Bfind, "bfind") X(Bra, "bra") X(Brev, "brev") X(Brkpt, "brkpt")    \
  X(Clz, "clz") X(Cnot, "cnot") X(Copysign, "copysign") X(Cos, "cos") X(Cp, "cp")                  \
  X(Createpolicy, "createpolicy") X(Cvt, "cvt") X(Cvta, "cvta") X(Discard, "discard")              \
  X(Div, "div") X(Dp4a, "dp4a") X(Elect, "elect") X(Ex2, "ex2") X(Exit, "exit") X(Fence, "fence")  \
  X(Fma, "fma") X(Getctarank, "getctarank") X(Griddepcontrol, "griddepcontrol")                    \
  X(Isspacep, "isspacep") X(Ld, "ld") X(Ldmatrix, "ldmatrix") X(Lg2, "lg2") X(Lop3, "lop3")        \
  X(Mad, "mad") X(Mapa, "mapa") X(Match, "match") X(Max, "max") X(Mbarrier, "mbarrier")            \
  X(Membar, "membar") X(Min, "min") X(Mma, "mma") X(Mov, "mov") X(Mul, "mul")                      \
  X(Nanosleep, "nanosleep") X(Neg, "neg") X(Not, "not") X(Or, "or") X(Pmevent, "pmevent")          \
  X(Popc, "popc") X(Prefetch, "prefetch") X(Prmt, "prmt") X(Rcp, "rcp") X(Red, "red")              \
  X(Redux, "redux") X(Rem, "rem") X(Ret, "ret") X(Rsqrt, "rsqrt") X(Sad, "sad") X(Selp, "selp")    \
  X(Set, "set") X(Setmaxnreg, "setmaxnreg") X(Setp, "setp") X(Shf, "shf") X(Shfl, "shfl")          \
  X(Shl, "shl") X(Shr, "shr") X(Sin, "sin") X(Slct, "slct") X(Sqrt, "sqrt") X(St, "st")            \
  X(Stmatrix, "stmatrix") X(Sub, "sub") X(Subc, "subc") X(Tanh, "tanh") X(Testp, "testp")          \
  X(Trap, "trap") X(Vote, "vote") X(Wgmma, "wgmma") X(Xor, "xor")
// clang-format on
#define MOE_X(id, name) id,
  MOE_PTX_OPS(MOE_X)
#undef MOE_X
};

enum class Type : uint8_t {
// clang-format off: it has no stable layout for these lists
#define MOE_PTX_TYPES(X)                                                                           \
  X(B1, "b1", 1) X(B4, "b4", 4) X(S4, "s4", 4) X(U4, "u4", 4) X(B8, "b8", 8) X(B16, "b16", 16)     \
  X(B32, "b32", 32) X(B64, "b64", 64) X(B128, "b128", 128) X(U8, "u8", 8) X(U16, "u16", 16)        \
  X(U32, "u32", 32) X(U64, "u64", 64) X(S8, "s8", 8) X(S16, "s16", 16) X(S32, "s32", 32)           \
  X(S64, "s64", 64) X(F16, "f16", 16) X(F16x2, "f16x2", 32) X(BF16, "bf16", 16)                    \
  X(BF16x2, "bf16x2", 32) X(TF32, "tf32", 32) X(F32, "f32", 32) X(F64, "f64", 64)                  \
  X(F32x2, "f32x2", 64)                                                                            \
  X(E4M3, "e4m3", 8) X(E5M2, "e5m2", 8) X(E4M3x2, "e4m3x2", 16) X(E5M2x2, "e5m2x2", 16)            \
  X(Pred, "pred", 1)
// clang-format on
#define MOE_X(id, name, bits) id,
  MOE_PTX_TYPES(MOE_X)
#undef MOE_X
      None
};
constexpr unsigned bitsOf(Type type) {
  constexpr uint8_t bits[] = {
#define MOE_X(id, name, bits) bits,
      MOE_PTX_TYPES(MOE_X)
#undef MOE_X
          0};
  return bits[unsigned(type)];
}
constexpr bool isSigned(Type type) {
  return type == Type::S8 || type == Type::S16 || type == Type::S32 || type == Type::S64;
}
std::string_view nameOf(Type);

enum class Space : uint8_t { Generic, Param, Global, Shared, Local, Const };

enum class Mod : uint8_t {
// clang-format off: it has no stable layout for these lists
// Hint: any other L1:: or L2:: word, how long to keep a line, which has no effect here.
#define MOE_PTX_MODS(X)                                                                            \
  X(Acquire, "acquire") X(AcqRel, "acq_rel") X(Add, "add") X(Address, "address")                   \
  X(Alias, "alias") X(Aligned, "aligned") X(All, "all") X(Alloc, "alloc") X(And, "and")            \
  X(Any, "any") X(Approx, "approx") X(Arrive, "arrive") X(ArriveDrop, "arrive_drop")               \
  X(Async, "async") X(B4e, "b4e") X(Ballot, "ballot") X(Bfly, "bfly") X(Bulk, "bulk")              \
  X(BulkGroup, "bulk_group") X(Ca, "ca") X(Cas, "cas") X(Cc, "cc") X(Cg, "cg") X(Clamp, "clamp")   \
  X(Cluster, "cluster") X(Col, "col") X(CommitGroup, "commit_group") X(CompleteTx, "complete_tx")  \
  X(Cs, "cs") X(Cta, "cta") X(Cv, "cv") X(Dec, "dec") X(Decr, "decr") X(Down, "down")              \
  X(Ecl, "ecl") X(Ecr, "ecr") X(Eq, "eq") X(Equ, "equ") X(Exch, "exch") X(ExpectTx, "expect_tx")   \
  X(F4e, "f4e") X(Finite, "finite") X(Fractional, "fractional") X(Ftz, "ftz") X(Full, "full")      \
  X(Ge, "ge") X(Geu, "geu") X(Global, "global") X(Gpu, "gpu") X(Gt, "gt") X(Gtu, "gtu")            \
  X(Hi, "hi") X(Hs, "hs") X(Idx, "idx") X(Im2col, "im2col") X(Inc, "inc") X(Infinite, "infinite")  \
  X(Init, "init") X(Inval, "inval") X(L, "l") X(LaunchDependents, "launch_dependents")             \
  X(Le, "le") X(Leu, "leu") X(Lo, "lo") X(Local, "local") X(Ls, "ls") X(Lt, "lt") X(Ltu, "ltu")    \
  X(Lu, "lu") X(Max, "max") X(Mbarrier, "mbarrier") X(MbarrierInit, "mbarrier_init")               \
  X(Min, "min") X(MmaAsync, "mma_async") X(NaN, "NaN") X(Nan, "nan") X(Nc, "nc") X(Ne, "ne")       \
  X(Neu, "neu") X(NoComplete, "noComplete") X(Noftz, "noftz") X(Noinc, "noinc")                    \
  X(Normal, "normal") X(Notanumber, "notanumber") X(Num, "num") X(Number, "number") X(Or, "or")    \
  X(Param, "param") X(Parity, "parity") X(PendingCount, "pending_count") X(Pop, "popc")   \
  X(Prefetch, "prefetch") X(Proxy, "proxy") X(R, "r") X(Range, "range") X(Rc16, "rc16")            \
  X(Rc8, "rc8") X(Read, "read") X(Red, "red") X(Relaxed, "relaxed") X(Release, "release")    \
  X(Relu, "relu") X(Rm, "rm") X(Rmi, "rmi") X(Rn, "rn") X(Rna, "rna") X(Rni, "rni")       \
  X(Row, "row") X(Rp, "rp") X(Rpi, "rpi") X(Rz, "rz") X(Rzi, "rzi") X(Sat, "sat")                  \
  X(Satfinite, "satfinite") X(Sc, "sc") X(Shared, "shared") X(Shiftamt, "shiftamt")                \
  X(Subnormal, "subnormal") X(Sync, "sync") X(Sys, "sys") X(Tensor, "tensor")                   \
  X(Tensormap, "tensormap") X(TensormapGeneric, "tensormap::generic") X(TestWait, "test_wait") X(Tile, "tile") X(To, "to")    \
  X(Trans, "trans") X(TryWait, "try_wait") X(Uni, "uni") X(Up, "up")                         \
  X(Volatile, "volatile") X(W, "wait") X(WaitAll, "wait_all")        \
  X(WaitGroup, "wait_group") X(Warp, "warp") X(Weak, "weak")                  \
  X(Wide, "wide") X(Wb, "wb") X(Wrap, "wrap") X(Wt, "wt") X(Xor, "xor")                         \
  X(Xorsign, "xorsign") X(Const, "const") X(Fence, "fence") X(Gl, "gl") X(L1, "L1")       \
  X(L2, "L2") X(SharedCta, "shared::cta") X(SharedCluster, "shared::cluster")                      \
  X(CacheHint, "L2::cache_hint") X(CompleteBytes, "mbarrier::complete_tx::bytes")                  \
  X(Multicast, "multicast::cluster") X(Hint, "::")
// clang-format on
#define MOE_X(id, name) id,
  MOE_PTX_MODS(MOE_X)
#undef MOE_X
      Count
};

struct Opcode {
  Op op = Op::Exit;
  std::array<Type, 4> types{Type::None, Type::None, Type::None, Type::None}; // as written
  uint8_t typeCount = 0;
  uint8_t vector = 1;           // .v2, .v4, .v8
  uint8_t count = 1;            // .x2, .x4
  uint8_t dims = 0;             // .1d to .5d
  uint16_t m = 0, n = 0, k = 0; // .m16n8k16
  std::bitset<unsigned(Mod::Count)> mods;

  bool has(Mod mod) const { return mods[unsigned(mod)]; }
  bool hasAny(std::initializer_list<Mod> list) const {
    for (Mod mod : list)
      if (has(mod))
        return true;
    return false;
  }
  Type type() const { return types[0]; }
  Space space() const;
};

// Error: what is unknown in TEXT, without its place.
Result<Opcode> decodeOpcode(std::string_view text);
std::string_view nameOf(Op);
// Type of that name, or None.
Type typeNamed(std::string_view name);

} // namespace moe::ptxsim

#endif
