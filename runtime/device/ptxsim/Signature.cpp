// Operand widths by instruction. What is not named here has operands as wide as its type.
#include "runtime/device/ptxsim/Signature.h"

namespace moe::ptxsim {

static unsigned registerBits(Type type) {
  unsigned bits = bitsOf(type);
  return bits > 1 && bits < 16 ? 16 : bits;
}

static Width widthOfBarrier(const Opcode &code, unsigned group, unsigned groups) {
  bool reduces = code.has(Mod::Red);
  bool counts = reduces && code.has(Mod::Pop);
  if (reduces && (group + 1 == groups || (!counts && group == 0)))
    return {1};
  return {32};
}

static Width widthOfMbarrier(const Opcode &code, unsigned group) {
  if (code.hasAny({Mod::TestWait, Mod::TryWait})) {
    if (group == 0)
      return {1};
    return {group == 2 && !code.has(Mod::Parity) ? 64u : 32u};
  }
  if (code.has(Mod::PendingCount))
    return {group == 0 ? 32u : 64u};
  if (code.hasAny({Mod::Arrive, Mod::ArriveDrop}) && group == 0)
    return {64};
  return {32};
}

Width widthOf(const Opcode &code, unsigned group, unsigned groups, unsigned size,
              unsigned element) {
  unsigned bits = registerBits(code.type());
  unsigned second = registerBits(code.types[1]);
  // The hint is the last operand, a policy.
  if (code.has(Mod::CacheHint) && group + 1 == groups)
    return {64};
  switch (code.op) {
  case Op::Setp:
    return {group == 0 || group == 3 ? 1 : bits};
  case Op::Testp:
  case Op::Isspacep:
    return {group == 0 ? 1u : code.op == Op::Testp ? bits : 64u};
  case Op::Selp:
    return {group == 3 ? 1 : bits};
  case Op::Slct:
    return {group == 3 ? second : bits};
  case Op::Set:
    return {group == 0 ? bits : group == 3 ? 1 : second};
  case Op::Cvt:
    return {group == 0 ? bits : second, false};
  case Op::Mul:
  case Op::Mad:
    return {code.has(Mod::Wide) && (group == 0 || group == 3) ? 2 * bits : bits};
  case Op::Shl:
  case Op::Shr:
    return {group == 2 ? 32 : bits};
  case Op::Bfe:
    return {group >= 2 ? 32 : bits};
  case Op::Bfi:
    return {group >= 3 ? 32 : bits};
  case Op::Popc:
  case Op::Clz:
  case Op::Bfind:
    return {group == 0 ? 32 : bits};
  case Op::Mov:
    return {size > 1 ? bits / size : bits};
  case Op::Ld:
  case Op::St:
    return {bits, false};
  case Op::Cp:
  case Op::Bar:
  case Op::Barrier:
    return code.op == Op::Cp ? Width{32, false} : widthOfBarrier(code, group, groups);
  case Op::Mbarrier:
    return widthOfMbarrier(code, group);
  case Op::Shfl:
  case Op::Elect:
    return {group == 0 && element == 1 ? 1u : 32u};
  case Op::Match:
    return {group == 0 && element == 1 ? 1 : group == 1 ? bits : 32};
  case Op::Vote:
    return {group == 1 || (group == 0 && !code.has(Mod::Ballot)) ? 1u : 32u};
  case Op::Mma:
    return {code.type() == Type::F64 ? 64u : 32u};
  case Op::Wgmma:
  case Op::Prefetch:
  case Op::Mapa:
  case Op::Getctarank:
    return {32, false};
  case Op::Createpolicy:
    return {group == 0 ? 64u : 32u};
  case Op::Redux:
  case Op::Ldmatrix:
  case Op::Stmatrix:
  case Op::Activemask:
  case Op::Nanosleep:
  case Op::Setmaxnreg:
  case Op::Prmt:
  case Op::Lop3:
  case Op::Shf:
  case Op::Dp4a:
    return {32};
  default:
    return {bits};
  }
}

unsigned operandCount(Op op) {
  switch (op) {
  case Op::Abs:
  case Op::Neg:
  case Op::Not:
  case Op::Cnot:
  case Op::Popc:
  case Op::Clz:
  case Op::Bfind:
  case Op::Brev:
  case Op::Rcp:
  case Op::Rsqrt:
  case Op::Sqrt:
  case Op::Ex2:
  case Op::Lg2:
  case Op::Sin:
  case Op::Cos:
  case Op::Tanh:
  case Op::Cvta:
  case Op::Isspacep:
  case Op::Testp:
    return 2;
  case Op::Add:
  case Op::Sub:
  case Op::Mul:
  case Op::Div:
  case Op::Rem:
  case Op::Min:
  case Op::Max:
  case Op::And:
  case Op::Or:
  case Op::Xor:
  case Op::Shl:
  case Op::Shr:
  case Op::Copysign:
    return 3;
  case Op::Mad:
  case Op::Fma:
  case Op::Sad:
  case Op::Bfe:
  case Op::Shf:
  case Op::Prmt:
  case Op::Dp4a:
  case Op::Selp:
  case Op::Slct:
    return 4;
  case Op::Lop3:
  case Op::Bfi:
    return 5;
  default:
    return 0;
  }
}

} // namespace moe::ptxsim
