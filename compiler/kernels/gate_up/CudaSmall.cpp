// RMSNorm, router, gate and up of the shared and the routed experts, and SwiGLU, of small steps.
#include "compiler/kernels/router/CudaSmall.h"
#include "compiler/kernels/gate_up/GateUp.h"
#include "compiler/kernels/gate_up/Math.h"

using namespace mlir;

namespace moe::codegen {

namespace {

// The pieces of work are strips of 8 channels: those of the shared expert (or of the dense layer),
// then those of each different expert that the tokens chose. The first blocks compute the router's
// logits; by the time that a block has done its shared strips, they are there.
struct SmallGateUp {
  CudaKernel &k;
  const CudaSmallGateUp &s;
  bool routes = s.experts > 0;
  int64_t strips = llvm::divideCeil(s.width, kStripRows / 2);
  Stream sharedStream{s.shared, s.hidden}, routedStream{routes ? s.routed : s.shared, s.hidden};

  Ptr h = k.operand(Operand::H), norm = k.operand(Operand::Norm);
  // The matrix of the shared expert, or of the dense layer, and those of the routed experts.
  Ptr shared = k.operand(Operand::SharedWeight),
      routed = routes ? k.operand(Operand::RoutedWeight) : Ptr{};
  Ptr hidden = k.operand(Operand::Hidden);
  Val tokens = k.tokens();
  std::optional<SmallRouter> router; // with experts

  SmallGateUp(CudaKernel &k, const CudaSmallGateUp &s) : k(k), s(s) {
    if (routes)
      router.emplace(
          k, s.hidden, s.experts,
          SmallRouter::Operands{h, norm, k.operand(Operand::Router), k.operand(Operand::Experts),
                                k.operand(Operand::ExpertLogits), k.operand(Operand::Counters)});
  }

  Ptr rowOf(Val t) { return h + k.convert(t, k.i64()) * (padded(s.hidden) * 4); }
  Ptr stripOf(const Stream &stream, Ptr matrix, Val strip) {
    return matrix + k.convert(strip, k.i64()) * stream.stripBytes();
  }
  Val streamStrip(Small &small, Val stage, const Stream &stream, Ptr strip) {
    return small.stream(stage, stream, strip, k.i32(0), k.i32(stream.blocks));
  }
  std::pair<Val, CudaKernel::Acc> multiplyStrip(Small &small, Val stage, const Stream &stream,
                                                Ptr strip) {
    return small.multiply(stage, stream, strip, k.i32(stream.blocks), k.zeroAcc());
  }
  Ptr matrixOf(Val expert) {
    return routed + k.convert(expert, k.i64()) * (strips * routedStream.stripBytes());
  }
  Val firstRouted() {
    Val before = max(k.i32(strips) - k.block() + k.blocks() - 1, k.i32(0)) / k.blocks();
    return k.block() + before * k.blocks();
  }

  void produce(Small &small, const SmallRouter::Choices &choices) {
    Val stage =
        k.stride(k.block(), select(gt(tokens, 0), k.i32(strips), k.i32(0)), k.blocks(), {k.i32(0)},
                 [&](Val strip, ArrayRef<Val> carried) {
                   return SmallVector<Val>{streamStrip(small, carried[0], sharedStream,
                                                       stripOf(sharedStream, shared, strip))};
                 })[0];
    if (!routes)
      return;
    k.waitForPrevious();
    Val distinct = router->chooseByProducer(choices);
    k.stride(firstRouted(), (distinct + 1) * strips, k.blocks(), {stage},
             [&](Val piece, ArrayRef<Val> carried) {
               Val expert = choices.distinctExpert(piece / strips - 1);
               return SmallVector<Val>{
                   streamStrip(small, carried[0], routedStream,
                               stripOf(routedStream, matrixOf(expert), piece % strips))};
             });
  }

  // silu(score g) (score u) of channel strip * 8 + i / 8 and token i % 8, for i < 64.
  void storeHidden(Small &small, Val strip, Val turn, function_ref<void(Val, Val, Val, Val)> use) {
    k.ifThen(lt(k.thread(), 64), [&] {
      // Rows r and r + 8 of a strip are elements i and i + 2 of the same lane's.
      Val i = k.shiftRight(k.thread(), 1) * 4 + (k.thread() & 1);
      Val channel = strip * 8 + (Small::rowOf(i) & 7), t = Small::columnOf(i);
      Val gate = small.total(i, turn), up = small.total(i + 2, turn);
      k.ifThen(lt(t, tokens), [&] { use(channel, t, gate, up); });
    });
  }
  void store(Val row, Val channel, Val gate, Val up) {
    Val y = swiglu(gate, up, [&](Val x) { return k.sigmoid(x); });
    Val bits = k.convert(k.pack(Half::BF16, y, k.f32(0)), k.getI16Type());
    Val at = k.convert(row, k.i64()) * padded(s.width) + k.convert(channel, k.i64());
    k.store(hidden + at * 2, bits);
  }
  // Channels that pad a row, beyond those of the last strip.
  void clearPadding() {
    int64_t first = strips * 8, n = padded(s.width) - first;
    if (!n)
      return;
    Val rows = routes ? tokens * 2 : tokens;
    k.ifThen(eq(k.block(), 0), [&] {
      k.stride(k.thread(), rows * n, k.i32(Small::consumers), [&](Val i) {
        Val at = k.convert(i / n, k.i64()) * padded(s.width) + k.convert(i % n + first, k.i64());
        k.store(hidden + at * 2, k.constant(k.getI16Type(), 0));
      });
    });
  }

  void consume(Small &small, const SmallRouter::Choices &choices) {
    k.waitForPrevious();
    small.clear();
    auto row = [&](Val t) { return rowOf(t); };
    small.computeScales(tokens, row, s.hidden, s.eps);
    if (routes)
      router->computeLogits(small);
    small.loadNormed(tokens, row, norm, k.i32(0), k.i32(padded(s.hidden)), s.hidden);
    clearPadding();
    small.consumerBarrier();

    auto carried = k.stride(
        k.block(), k.i32(strips), k.blocks(), {k.i32(0), k.i32(0)},
        [&](Val strip, ArrayRef<Val> c) {
          auto [stage, sums] =
              multiplyStrip(small, c[0], sharedStream, stripOf(sharedStream, shared, strip));
          small.exchange(sums, c[1]);
          storeHidden(small, strip, c[1],
                      [&](Val channel, Val t, Val gate, Val up) { store(t, channel, gate, up); });
          return SmallVector<Val>{stage, c[1] + 1};
        });
    if (!routes)
      return;

    Val distinct = router->chooseByConsumers(small, choices);
    k.stride(firstRouted(), (distinct + 1) * strips, k.blocks(), carried,
             [&](Val piece, ArrayRef<Val> c) {
               Val expert = choices.distinctExpert(piece / strips - 1);
               auto [stage, sums] =
                   multiplyStrip(small, c[0], routedStream,
                                 stripOf(routedStream, matrixOf(expert), piece % strips));
               small.exchange(sums, c[1]);
               storeHidden(small, piece % strips, c[1], [&](Val channel, Val t, Val gate, Val up) {
                 k.ifThen(eq(choices.expertOf(t), expert), [&] {
                   Val score = choices.scoreOf(t);
                   store(tokens + t, channel, score * gate, score * up);
                 });
               });
               return SmallVector<Val>{stage, c[1] + 1};
             });
  }

  void emit() {
    Small small(k, padded(s.hidden), {sharedStream, routedStream});
    SmallRouter::Choices producer{k}, consumers{k};
    small.run([&] { produce(small, producer); }, [&] { consume(small, consumers); });
  }
};

} // namespace

void CudaSmallGateUp::emit(CudaKernel &k) const { SmallGateUp(k, *this).emit(); }

} // namespace moe::codegen
