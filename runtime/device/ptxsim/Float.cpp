// f32 and f64 arithmetic, and the approximate functions, which are exact here: kernels that pass on
// the simulator must allow for the error that the hardware documents.
#include "runtime/device/ptxsim/Lanes.h"
#include "runtime/device/ptxsim/Numbers.h"

namespace moe::ptxsim {

namespace {

// The modifiers of an operation: flush subnormals, saturate to [0, 1], round.
template <bool ftz, bool sat> float finish(float value) {
  if constexpr (ftz)
    value = flush(value);
  if constexpr (sat)
    value = value > 0 ? (value < 1 ? value : 1.0f) : 0.0f; // and NaN to 0
  return value;
}
template <bool ftz> float input(float value) {
  if constexpr (ftz)
    return flush(value);
  return value;
}

// Only the most usual forms have fast versions.
template <bool sat, Round round, class Signature, class F> Handler formOf(F function) {
  if constexpr (!sat && round == Round::Nearest)
    return lanewise<Signature>(function);
  else
    return rareLanewise<Signature>(function);
}

template <bool ftz, bool sat, Round round> Handler selectRounded(const Opcode &code) {
  switch (code.op) {
  case Op::Add:
    return formOf<sat, round, float(float, float)>([](float a, float b) {
      a = input<ftz>(a), b = input<ftz>(b);
      return finish<ftz, sat>(round == Round::Nearest ? a + b
                                                      : roundFloat(fusedOdd(a, 1, b), round));
    });
  case Op::Sub:
    return formOf<sat, round, float(float, float)>([](float a, float b) {
      a = input<ftz>(a), b = input<ftz>(b);
      return finish<ftz, sat>(round == Round::Nearest ? a - b
                                                      : roundFloat(fusedOdd(a, 1, -b), round));
    });
  case Op::Mul:
    return formOf<sat, round, float(float, float)>([](float a, float b) {
      a = input<ftz>(a), b = input<ftz>(b);
      return finish<ftz, sat>(round == Round::Nearest ? a * b : roundFloat(double(a) * b, round));
    });
  case Op::Mad:
  case Op::Fma:
    return formOf<sat, round, float(float, float, float)>([](float a, float b, float c) {
      a = input<ftz>(a), b = input<ftz>(b), c = input<ftz>(c);
      return finish<ftz, sat>(round == Round::Nearest ? fused(a, b, c)
                                                      : roundFloat(fusedOdd(a, b, c), round));
    });
  default:
    return nullptr;
  }
}

template <bool ftz, bool sat> Handler selectModified(const Opcode &code) {
  if (code.has(Mod::Rz))
    return selectRounded<ftz, sat, Round::Zero>(code);
  if (code.has(Mod::Rm))
    return selectRounded<ftz, sat, Round::Down>(code);
  if (code.has(Mod::Rp))
    return selectRounded<ftz, sat, Round::Up>(code);
  return selectRounded<ftz, sat, Round::Nearest>(code);
}

template <class T, bool minimum, bool nan> T pick(T a, T b) {
  if (a != a || b != b)
    return nan || (a != a && b != b) ? std::numeric_limits<T>::quiet_NaN() : a != a ? b : a;
  if (a == b)
    return std::signbit(a) == minimum ? a : b; // -0 is less than +0
  return (a < b) == minimum ? a : b;
}

template <bool ftz> Handler selectUnary(const Opcode &code) {
  bool nan = code.has(Mod::NaN);
  using F = float;
  switch (code.op) {
  case Op::Min:
    return nan ? rareLanewise<F(F, F)>(
                     [](F a, F b) { return pick<F, true, true>(input<ftz>(a), input<ftz>(b)); })
               : lanewise<F(F, F)>(
                     [](F a, F b) { return pick<F, true, false>(input<ftz>(a), input<ftz>(b)); });
  case Op::Max:
    return nan ? rareLanewise<F(F, F)>(
                     [](F a, F b) { return pick<F, false, true>(input<ftz>(a), input<ftz>(b)); })
               : lanewise<F(F, F)>(
                     [](F a, F b) { return pick<F, false, false>(input<ftz>(a), input<ftz>(b)); });
  case Op::Abs:
    return lanewise<F(F)>([](F a) { return std::fabs(input<ftz>(a)); });
  case Op::Neg:
    return lanewise<F(F)>([](F a) { return -input<ftz>(a); });
  case Op::Div:
    return rareLanewise<F(F, F)>(
        [](F a, F b) { return finish<ftz, false>(input<ftz>(a) / input<ftz>(b)); });
  case Op::Rcp:
    return lanewise<F(F)>([](F a) { return finish<ftz, false>(1 / input<ftz>(a)); });
  case Op::Sqrt:
    return rareLanewise<F(F)>([](F a) { return std::sqrt(input<ftz>(a)); });
  case Op::Rsqrt:
    return rareLanewise<F(F)>([](F a) { return F(1 / std::sqrt(double(input<ftz>(a)))); });
  case Op::Ex2:
    return lanewise<F(F)>([](F a) { return finish<ftz, false>(std::exp2(input<ftz>(a))); });
  case Op::Lg2:
    return rareLanewise<F(F)>([](F a) { return std::log2(input<ftz>(a)); });
  case Op::Sin:
    return rareLanewise<F(F)>([](F a) { return std::sin(input<ftz>(a)); });
  case Op::Cos:
    return rareLanewise<F(F)>([](F a) { return std::cos(input<ftz>(a)); });
  case Op::Tanh:
    return rareLanewise<F(F)>([](F a) { return std::tanh(a); });
  case Op::Copysign: // the sign of the first, the value of the second
    return rareLanewise<F(F, F)>([](F a, F b) { return std::copysign(b, a); });
  default:
    return nullptr;
  }
}

Handler selectDouble(const Opcode &code) {
  if (code.hasAny({Mod::Rz, Mod::Rm, Mod::Rp}))
    return nullptr;
  using D = double;
  switch (code.op) {
  case Op::Add:
    return rareLanewise<D(D, D)>([](D a, D b) { return a + b; });
  case Op::Sub:
    return rareLanewise<D(D, D)>([](D a, D b) { return a - b; });
  case Op::Mul:
    return rareLanewise<D(D, D)>([](D a, D b) { return a * b; });
  case Op::Mad:
  case Op::Fma:
    return rareLanewise<D(D, D, D)>([](D a, D b, D c) { return std::fma(a, b, c); });
  case Op::Div:
    return rareLanewise<D(D, D)>([](D a, D b) { return a / b; });
  case Op::Rcp:
    return rareLanewise<D(D)>([](D a) { return 1 / a; });
  case Op::Sqrt:
    return rareLanewise<D(D)>([](D a) { return std::sqrt(a); });
  case Op::Rsqrt:
    return rareLanewise<D(D)>([](D a) { return 1 / std::sqrt(a); });
  case Op::Abs:
    return rareLanewise<D(D)>([](D a) { return std::fabs(a); });
  case Op::Neg:
    return rareLanewise<D(D)>([](D a) { return -a; });
  case Op::Min:
    return rareLanewise<D(D, D)>([](D a, D b) { return pick<D, true, false>(a, b); });
  case Op::Max:
    return rareLanewise<D(D, D)>([](D a, D b) { return pick<D, false, false>(a, b); });
  case Op::Copysign:
    return rareLanewise<D(D, D)>([](D a, D b) { return std::copysign(b, a); });
  default:
    return nullptr;
  }
}

} // namespace

Handler selectFloat(const Entry &, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.type() == Type::F64)
    return selectDouble(code);
  if (code.type() != Type::F32 || code.has(Mod::Xorsign))
    return nullptr;
  bool ftz = code.has(Mod::Ftz), sat = code.has(Mod::Sat);
  Handler handler = ftz ? sat ? selectModified<true, true>(code) : selectModified<true, false>(code)
                    : sat ? selectModified<false, true>(code)
                          : selectModified<false, false>(code);
  if (handler)
    return handler;
  return sat ? nullptr : ftz ? selectUnary<true>(code) : selectUnary<false>(code);
}

} // namespace moe::ptxsim
