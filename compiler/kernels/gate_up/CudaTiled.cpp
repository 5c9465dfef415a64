// Gate and up of the shared and the routed experts, and SwiGLU, of larger steps.
#include "compiler/kernels/gate_up/GateUp.h"
#include "compiler/kernels/gate_up/Math.h"
#include "compiler/targets/cuda/TiledProduct.h"
#include <numbers>

namespace moe::codegen {

// With an approximate reciprocal, one unit in the last place off: bf16 does not tell.
static Val fastSigmoid(CudaKernel &k, Val x) {
  Val power = k.exp2(x * -std::numbers::log2e) + 1;
  return k.ptx("rcp.approx.ftz.f32 $0, $1;", k.f32(), {power}, "=f,f", /*effects=*/false)[0];
}

void CudaTiledGateUp::emit(CudaKernel &k) const {
  Ptr scores{}, out = k.operand(Operand::Hidden);
  TiledPieces::Operands weights{k.operand(Operand::SharedWeight), {}, {}, {}};
  if (experts) {
    scores = k.operand(Operand::Scores);
    weights.routedWeight = k.operand(Operand::RoutedWeight);
    weights.order = k.operand(Operand::Order);
    weights.offsets = k.operand(Operand::Offsets);
  }
  TiledShape shape{hidden, width, shared, experts, routed};
  shape.stripOutputs = kStripRows / 2;
  TiledProduct product(k, shape, tile, k.operand(Operand::X), weights);

  // Rows g are gates, rows g + 8 ups of the same channel. Neighbouring channels' lanes exchange
  // tokens, so that each writes two channels of one token.
  product.run([&](const TiledProduct::Sums &sums) {
    const Piece &p = sums.piece;
    Val channel = k.shiftRight(k.lane(), 2), even = eq(channel & 1, 0);
    auto channelOf = [&](int64_t n) {
      Val gate = sums.values[n], up = sums.values[2 + n];
      if (experts) {
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
      if (experts)
        at = at + select(p.routed, k.tokens(), k.i32(0));
      Ptr to = out + k.convert(at, k.i64()) * (padded(width) * 2);
      k.store(k.offset(to, sums.strip * 16 + (channel - (channel & 1)) * 2), pair);
    });
  });
}

} // namespace moe::codegen
