// f16, bf16 and their pairs: computed in wider formats, rounded once.
#include "runtime/device/ptxsim/Lanes.h"
#include "runtime/device/ptxsim/Numbers.h"

#include <array>
#include <bit>
#include <cmath>

namespace moe::ptxsim {

namespace {

template <class N> float wide(N value) { return value.value(); }

template <class N> struct Pair {
  N low, high;
};

// Applies FUNCTION to numbers, or to both of a pair.
template <class N, class F> N each(F function, N a) { return function(a); }
template <class N, class F> N each(F function, N a, N b) { return function(a, b); }
template <class N, class F> N each(F function, N a, N b, N c) { return function(a, b, c); }
template <class N, class F> Pair<N> each(F function, Pair<N> a) {
  return {function(a.low), function(a.high)};
}
template <class N, class F> Pair<N> each(F function, Pair<N> a, Pair<N> b) {
  return {function(a.low, b.low), function(a.high, b.high)};
}
template <class N, class F> Pair<N> each(F function, Pair<N> a, Pair<N> b, Pair<N> c) {
  return {function(a.low, b.low, c.low), function(a.high, b.high, c.high)};
}

template <class N, bool minimum, bool nan> N pickOf(N a, N b) {
  float x = wide(a), y = wide(b);
  if (x != x || y != y)
    return nan || (x != x && y != y) ? N{0x7fff} : x != x ? b : a;
  if (x == y)
    return (std::signbit(x) == minimum) ? a : b;
  return (x < y) == minimum ? a : b;
}

// Pairs are what kernels compute with.
template <class Signature, class P, class F> Handler formOf(F function) {
  if constexpr (sizeof(P) == 4)
    return lanewise<Signature>(function);
  else
    return rareLanewise<Signature>(function);
}

template <class N, bool minimum, bool nan, class P> Handler extremum() {
  return formOf<P(P, P), P>([](P a, P b) {
    return each<N>([](N x, N y) { return pickOf<N, minimum, nan>(x, y); }, a, b);
  });
}

// N: Half or Brain. P: N or Pair<N>.
template <class N, class P> Handler selectOf(const Opcode &code) {
  bool nan = code.has(Mod::NaN), relu = code.has(Mod::Relu);
  if (code.hasAny({Mod::Xorsign, Mod::Sat}) || (relu && code.op != Op::Fma))
    return nullptr;
  switch (code.op) {
  case Op::Add:
    return formOf<P(P, P), P>([](P a, P b) {
      return each<N>([](N x, N y) { return N::from(wide(x) + wide(y)); }, a, b);
    });
  case Op::Sub:
    return formOf<P(P, P), P>([](P a, P b) {
      return each<N>([](N x, N y) { return N::from(wide(x) - wide(y)); }, a, b);
    });
  case Op::Mul:
    return formOf<P(P, P), P>([](P a, P b) {
      return each<N>([](N x, N y) { return N::from(wide(x) * wide(y)); }, a, b);
    });
  case Op::Fma:
    if (relu)
      return rareLanewise<P(P, P, P)>([](P a, P b, P c) {
        return each<N>(
            [](N x, N y, N z) {
              float value = oddFloat(fusedOdd(wide(x), wide(y), wide(z)));
              return N::from(value < 0 ? 0.0f : value);
            },
            a, b, c);
      });
    return formOf<P(P, P, P), P>([](P a, P b, P c) {
      return each<N>(
          [](N x, N y, N z) { return N::from(oddFloat(fusedOdd(wide(x), wide(y), wide(z)))); }, a,
          b, c);
    });
  case Op::Min:
    return nan ? extremum<N, true, true, P>() : extremum<N, true, false, P>();
  case Op::Max:
    return nan ? extremum<N, false, true, P>() : extremum<N, false, false, P>();
  case Op::Neg:
    return formOf<P(P), P>(
        [](P a) { return each<N>([](N x) { return N{uint16_t(x.bits ^ 0x8000)}; }, a); });
  case Op::Abs:
    return formOf<P(P), P>(
        [](P a) { return each<N>([](N x) { return N{uint16_t(x.bits & 0x7fff)}; }, a); });
  case Op::Ex2:
    return rareLanewise<P(P)>(
        [](P a) { return each<N>([](N x) { return N::from(std::exp2(wide(x))); }, a); });
  case Op::Tanh:
    return rareLanewise<P(P)>(
        [](P a) { return each<N>([](N x) { return N::from(std::tanh(wide(x))); }, a); });
  default:
    return nullptr;
  }
}

// Pairs of float32, of sm_100: each half is as if alone.
template <class F, class... S> uint64_t eachFloat(F function, S... pairs) {
  using Floats = std::array<float, 2>;
  Floats result;
  for (size_t half = 0; half < 2; ++half)
    result[half] = function(std::bit_cast<Floats>(pairs)[half]...);
  return std::bit_cast<uint64_t>(result);
}

Handler selectFloats(const Opcode &code) {
  using P = uint64_t;
  if (code.hasAny({Mod::Ftz, Mod::Sat, Mod::Rz, Mod::Rm, Mod::Rp}))
    return nullptr;
  switch (code.op) {
  case Op::Add:
    return lanewise<P(P, P)>(
        [](P a, P b) { return eachFloat([](float x, float y) { return x + y; }, a, b); });
  case Op::Sub:
    return lanewise<P(P, P)>(
        [](P a, P b) { return eachFloat([](float x, float y) { return x - y; }, a, b); });
  case Op::Mul:
    return lanewise<P(P, P)>(
        [](P a, P b) { return eachFloat([](float x, float y) { return x * y; }, a, b); });
  case Op::Fma:
    return lanewise<P(P, P, P)>([](P a, P b, P c) {
      return eachFloat([](float x, float y, float z) { return std::fma(x, y, z); }, a, b, c);
    });
  default:
    return nullptr;
  }
}

} // namespace

Handler selectPacked(const Entry &, const Instruction &i) {
  switch (i.opcode.type()) {
  case Type::F16:
    return selectOf<Half, Half>(i.opcode);
  case Type::F16x2:
    return selectOf<Half, Pair<Half>>(i.opcode);
  case Type::BF16:
    return selectOf<Brain, Brain>(i.opcode);
  case Type::BF16x2:
    return selectOf<Brain, Pair<Brain>>(i.opcode);
  case Type::F32x2:
    return selectFloats(i.opcode);
  default:
    return nullptr;
  }
}

} // namespace moe::ptxsim
