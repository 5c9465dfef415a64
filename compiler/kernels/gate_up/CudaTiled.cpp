// Gate and up of the shared and the routed experts, and SwiGLU, of larger steps.
#include "compiler/kernels/gate_up/Math.h"
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/TiledProduct.h"
#include <numbers>

namespace moe::codegen {

// With an approximate reciprocal, one unit in the last place off: bf16 does not tell.
static Val fastSigmoid(CudaKernel &k, Val x) {
  Val power = k.exp2(x * -std::numbers::log2e) + 1;
  return k.ptx("rcp.approx.ftz.f32 $0, $1;", k.f32(), {power}, "=f,f", /*effects=*/false)[0];
}

void emitTiledGateUp(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<GateUpSpec>(spec.op);
  const bool routes = s.experts;
  Ptr x = k.operand(0), scores = routes ? k.operand(1) : Ptr{}, hidden = k.operand(routes ? 6 : 2);
  TiledPieces::Operands weights{k.operand(1), {}, {}, {}};
  if (routes)
    weights = {k.operand(4), k.operand(5), k.operand(2), k.operand(3)};
  TiledShape shape{s.hidden, s.width, s.shared, s.experts, s.routed};
  shape.stripOutputs = kStripRows / 2;
  TiledProduct product(k, shape, spec.tile, x, weights);

  // Rows g are gates, rows g + 8 ups of the same channel. Neighbouring channels' lanes exchange
  // tokens, so that each writes two channels of one token.
  product.run([&](const TiledProduct::Sums &sums) {
    const Piece &p = sums.piece;
    Val channel = k.shiftRight(k.lane(), 2), even = eq(channel & 1, 0);
    auto channelOf = [&](int64_t n) {
      Val gate = sums.values[n], up = sums.values[2 + n];
      if (routes) {
        // The router's score scales the expert's input, and so the sums before SiLU.
        Val token = product.tokenIn(p, min(sums.column + n, p.count - 1));
        Val score = select(p.routed, k.load(k.offset(scores, token * 4), k.f32()), k.f32(1));
        gate = gate * score;
        up = up * score;
      }
      // Channels of the padding: the piece has no weights for them.
      return select(lt(sums.strip, shape.strips()),
                    swiglu(gate, up, [&](Val x) { return fastSigmoid(k, x); }), k.f32(0));
    };
    Val first = channelOf(0), second = channelOf(1);
    Val other = k.shuffleXor(select(even, second, first), 4);
    Val pair = k.pack(Half::BF16, select(even, first, other), select(even, other, second));
    Val mine = sums.column + select(even, k.i32(0), k.i32(1));
    k.ifThen(lt(mine, p.count), [&] {
      Val at = product.tokenIn(p, mine);
      if (routes)
        at = at + select(p.routed, k.tokens(), k.i32(0));
      Ptr to = hidden + k.convert(at, k.i64()) * (padded(s.width) * 2);
      k.store(k.offset(to, sums.strip * 16 + (channel - (channel & 1)) * 2), pair);
    });
  });
}

} // namespace moe::codegen
