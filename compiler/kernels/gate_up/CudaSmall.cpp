// RMSNorm, router, gate and up of the shared and the routed experts, and SwiGLU, of small steps.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/Small.h"

using namespace mlir;

namespace moe::codegen {

namespace {

// The pieces of work are strips of 8 channels: those of the shared expert (or of the dense layer),
// then those of each different expert that the tokens chose. The first blocks compute the router's
// logits; by the time that a block has done its shared strips, they are there.
struct SmallGateUp {
  CudaKernel &k;
  const GateUpSpec &s;
  bool routes = s.experts > 0;
  int64_t strips = llvm::divideCeil(s.width, kStripRows / 2);
  Stream sharedStream{s.shared, s.hidden}, routedStream{routes ? s.routed : s.shared, s.hidden};

  Ptr h = k.operand(0), norm = k.operand(1);
  Ptr router = routes ? k.operand(2) : Ptr{};
  // The matrix of the shared expert, or of the dense layer, and those of the routed experts.
  Ptr shared = k.operand(routes ? 3 : 2), routed = routes ? k.operand(4) : Ptr{};
  Ptr hidden = k.operand(routes ? 5 : 3);
  Ptr experts = routes ? k.operand(6) : Ptr{}, logits = routes ? k.operand(7) : Ptr{};
  // How many experts' logits are there, and how many have read them.
  Ptr computed = routes ? k.operand(8) : Ptr{}, read = routes ? computed + 4 : Ptr{};
  Val tokens = k.tokens();

  // Of the producer and of the consumers: the tokens' experts, each expert once, and scores.
  struct Choices {
    Ptr chosen, distinct, scores;
  };
  Choices make() {
    return {k.shared(kSmallTokens * 4), k.shared(kSmallTokens * 4), k.shared(kSmallTokens * 4)};
  }

  Ptr rowOf(Val t) { return h + k.convert(t, k.i64()) * (padded(s.hidden) * 4); }
  Val slot(Ptr list, Val i) { return k.load(k.offset(list, i * 4), k.i32()); }

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

  // The logits of experts block, block + blocks...: from the float32 row, as the sum before the
  // norm's scale.
  void computeLogits(Small &small) {
    k.stride(k.block(), k.i32(s.experts), k.blocks(), [&](Val expert) {
      Ptr w = router + k.convert(expert, k.i64()) * (s.hidden * 4);
      k.stride(k.i32(0), tokens, k.i32(1), [&](Val t) {
        Ptr row = rowOf(t);
        Val dot = k.stride(k.thread(), k.i32(s.hidden), k.i32(Small::consumers), {k.f32(0)},
                           [&](Val c, ArrayRef<Val> carried) {
                             auto at = [&](Ptr p) { return k.load(k.offset(p, c * 4), k.f32()); };
                             return SmallVector<Val>{fma(at(row) * at(norm), at(w), carried[0])};
                           })[0];
        Val logit = small.blockSum(dot) * small.scaleOf(t);
        k.ifThen(eq(k.thread(), 0),
                 [&] { k.store(k.offset(logits, (expert * kSmallTokens + t) * 4), logit); });
      });
      k.ifThen(eq(k.thread(), 0), [&] { k.releaseAdd(computed, k.i32(1)); });
    });
  }

  // {expert, logit} of the largest logit of token t, the first of equal ones; in all lanes.
  std::pair<Val, Val> best(Val t) {
    auto logit = [&](Val e) {
      return k.load(k.offset(logits, (e * kSmallTokens + t) * 4), k.f32());
    };
    Val mine = min(k.lane(), k.i32(s.experts - 1));
    auto out = k.stride(k.lane() + 32, k.i32(s.experts), k.i32(32), {mine, logit(mine)},
                        [&](Val e, ArrayRef<Val> b) {
                          Val v = logit(e), better = gt(v, b[1]);
                          return SmallVector<Val>{select(better, e, b[0]), select(better, v, b[1])};
                        });
    Val expert = out[0], value = out[1];
    for (int64_t mask = 16; mask; mask /= 2) {
      Val e = k.shuffleXor(expert, mask), v = k.shuffleXor(value, mask);
      Val better = gt(v, value) | (eq(v, value) & lt(e, expert));
      expert = select(better, e, expert);
      value = select(better, v, value);
    }
    return {expert, value};
  }

  // The distinct experts of the tokens into choices.distinct; returns how many. By one warp.
  Val listDistinct(const Choices &choices) {
    return k.stride(k.i32(0), tokens, k.i32(1), {k.i32(0)}, [&](Val t, ArrayRef<Val> carried) {
      Val n = carried[0], expert = slot(choices.chosen, t);
      Val seen = k.stride(k.i32(0), n, k.i32(1), {k.i32(0)}, [&](Val i, ArrayRef<Val> found) {
        return SmallVector<Val>{select(eq(slot(choices.distinct, i), expert), k.i32(1), found[0])};
      })[0];
      Val isNew = eq(seen, 0);
      k.syncWarp();
      k.ifThen(isNew & k.one(), [&] { k.store(k.offset(choices.distinct, n * 4), expert); });
      k.syncWarp();
      return SmallVector<Val>{select(isNew, n + 1, n)};
    })[0];
  }

  // The last to have read the logits prepares the counters for the next kernel.
  void doneReading() {
    Val before = k.atomicAdd(read, k.i32(1));
    k.ifThen(eq(before, k.blocks() * 2 - 1), [&] {
      k.store(computed, k.i32(0));
      k.store(read, k.i32(0));
    });
  }

  void produce(Small &small, const Choices &choices) {
    Val stage =
        k.stride(k.block(), select(gt(tokens, 0), k.i32(strips), k.i32(0)), k.blocks(), {k.i32(0)},
                 [&](Val strip, ArrayRef<Val> carried) {
                   return SmallVector<Val>{streamStrip(small, carried[0], sharedStream,
                                                       stripOf(sharedStream, shared, strip))};
                 })[0];
    if (!routes)
      return;
    k.waitForPrevious();
    k.awaitCounter(computed, k.i32(s.experts));
    k.stride(k.i32(0), tokens, k.i32(1), [&](Val t) {
      Val expert = best(t).first;
      k.ifThen(k.one(), [&] { k.store(k.offset(choices.chosen, t * 4), expert); });
    });
    k.syncWarp();
    k.ifThen(k.one(), [&] { doneReading(); });
    Val distinct = listDistinct(choices);
    k.stride(firstRouted(), (distinct + 1) * strips, k.blocks(), {stage},
             [&](Val piece, ArrayRef<Val> carried) {
               Val expert = slot(choices.distinct, piece / strips - 1);
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
    Val y = gate * k.sigmoid(gate) * up;
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

  void consume(Small &small, const Choices &choices) {
    k.waitForPrevious();
    small.clear();
    auto row = [&](Val t) { return rowOf(t); };
    small.computeScales(tokens, row, s.hidden, s.eps);
    if (routes)
      computeLogits(small);
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

    k.awaitCounter(computed, k.i32(s.experts));
    k.ifThen(lt(k.warp(), tokens), [&] {
      auto [expert, logit] = best(k.warp());
      k.ifThen(k.one(), [&, expert = expert, logit = logit] {
        k.store(k.offset(choices.chosen, k.warp() * 4), expert);
        k.store(k.offset(choices.scores, k.warp() * 4), k.sigmoid(logit));
        k.ifThen(eq(k.block(), 0), [&] { k.store(k.offset(experts, k.warp() * 4), expert); });
      });
    });
    small.consumerBarrier();
    k.ifThen(eq(k.thread(), 0), [&] { doneReading(); });
    Ptr counted = k.shared(4, 4);
    k.ifThen(eq(k.warp(), 0), [&] {
      Val n = listDistinct(choices);
      k.ifThen(k.one(), [&] { k.store(counted, n); });
    });
    small.consumerBarrier();
    Val distinct = k.load(counted, k.i32());
    k.stride(firstRouted(), (distinct + 1) * strips, k.blocks(), carried,
             [&](Val piece, ArrayRef<Val> c) {
               Val expert = slot(choices.distinct, piece / strips - 1);
               auto [stage, sums] =
                   multiplyStrip(small, c[0], routedStream,
                                 stripOf(routedStream, matrixOf(expert), piece % strips));
               small.exchange(sums, c[1]);
               storeHidden(small, piece % strips, c[1], [&](Val channel, Val t, Val gate, Val up) {
                 k.ifThen(eq(slot(choices.chosen, t), expert), [&] {
                   Val score = k.load(k.offset(choices.scores, t * 4), k.f32());
                   store(tokens + t, channel, score * gate, score * up);
                 });
               });
               return SmallVector<Val>{stage, c[1] + 1};
             });
  }

  void emit() {
    Small small(k, padded(s.hidden), {sharedStream, routedStream});
    Choices producers = make(), consumers = make();
    small.run([&] { produce(small, producers); }, [&] { consume(small, consumers); });
  }
};

} // namespace

void emitSmallGateUp(CudaKernel &k, const CudaSpec &spec) {
  SmallGateUp{k, std::get<GateUpSpec>(spec.op)}.emit();
}

} // namespace moe::codegen
