// Products of small steps: q, k, v; the output projection; down; the head.
#include "compiler/kernels/head/BestLogit.h"
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/Small.h"

using namespace mlir;

namespace moe::codegen {

namespace {

// y = W x of up to eight tokens. K is cut into shares; pieces of work are strips of a share, all of
// a share before the next, so that a block seldom changes its part of x.
struct SmallLinear {
  CudaKernel &k;
  int64_t rows, columns; // of the matrix
  int64_t splits;        // shares of its columns
  WeightFormat format, routedFormat = format;
  int64_t strips = llvm::divideCeil(rows, kStripRows);
  Stream stream{format, columns}, routedStream{routedFormat, columns};
  int64_t shareBlocks = llvm::divideCeil(stream.blocks, splits);
  int64_t routedShareBlocks = llvm::divideCeil(routedStream.blocks, splits);
  // The experts' part of `down`: a second matrix for each token, whose shares follow.
  bool routed = false;
  Ptr weight{}, routedWeight{}, experts{};
  Val count{}; // tokens, or rows of logits
  // Loads x's channels [first, first + n).
  std::function<void(Small &, Val first, Val n, bool routed)> loadX;
  // Of one element of a piece: token `column` < 8 and row of the matrix, both maybe beyond the
  // last.
  std::function<void(Val strip, Val share, Val i, Val total)> store;
  std::function<void(Small &)> prepare = [](Small &) {};
  std::function<void(Small &)> finish = [](Small &) {}; // after the last piece

  int64_t pieces() const { return strips * splits; }

  // A share of a matrix, counted in blocks of its stream.
  struct Share {
    Val first, count;
  };
  Share shareOf(Val share, bool routed) {
    int64_t blocks = (routed ? routedStream : stream).blocks;
    int64_t each = routed ? routedShareBlocks : shareBlocks;
    Val first = share * each;
    return {first, max(min(k.i32(blocks) - first, k.i32(each)), k.i32(0))};
  }
  Ptr stripOf(Ptr matrix, Val strip, bool routed) {
    return matrix + k.convert(strip, k.i64()) * (routed ? routedStream : stream).stripBytes();
  }
  Ptr matrixOf(Val expert) {
    return routedWeight + k.convert(expert, k.i64()) * (strips * routedStream.stripBytes());
  }
  Val streamShare(Small &small, Val stage, Ptr matrix, Val strip, Val share, bool routed) {
    Share part = shareOf(share, routed);
    return small.stream(stage, routed ? routedStream : stream, stripOf(matrix, strip, routed),
                        part.first, part.count);
  }

  // The first piece from `low` on that is this block's.
  Val firstFrom(int64_t low) {
    Val before = max(k.i32(low) - k.block() + k.blocks() - 1, k.i32(0)) / k.blocks();
    return k.block() + before * k.blocks();
  }
  SmallVector<Val> pieces(int64_t low, int64_t high, ArrayRef<Val> init,
                          function_ref<SmallVector<Val>(Val, Val, ArrayRef<Val>)> body) {
    Val end = select(gt(count, 0), k.i32(high), k.i32(0));
    return k.stride(firstFrom(low), end, k.blocks(), init, [&](Val piece, ArrayRef<Val> carried) {
      return body(piece % strips, piece / strips, carried);
    });
  }

  // Once for each different expert among the tokens, in the order of their first tokens.
  SmallVector<Val> forExperts(ArrayRef<Val> init,
                              function_ref<SmallVector<Val>(Val, ArrayRef<Val>)> body) {
    return k.stride(k.i32(0), count, k.i32(1), init, [&](Val t, ArrayRef<Val> carried) {
      Val expert = expertOf(t);
      Val seen = k.stride(k.i32(0), t, k.i32(1), {k.i32(0)}, [&](Val u, ArrayRef<Val> s) {
        return SmallVector<Val>{select(eq(expertOf(u), expert), k.i32(1), s[0])};
      })[0];
      return k.choose(
          eq(seen, 0), [&] { return body(expert, carried); },
          [&] { return SmallVector<Val>(carried); });
    });
  }
  Val expertOf(Val t) { return k.load(k.offset(experts, t * 4), k.i32()); }

  void produce(Small &small) {
    Val stage = pieces(0, pieces(), {k.i32(0)}, [&](Val strip, Val share, ArrayRef<Val> carried) {
      return SmallVector<Val>{streamShare(small, carried[0], weight, strip, share, false)};
    })[0];
    if (!routed)
      return;
    k.waitForPrevious(); // for the experts
    pieces(pieces(), 2 * pieces(), {stage}, [&](Val strip, Val share, ArrayRef<Val> carried) {
      share = share - splits;
      return forExperts(carried, [&](Val expert, ArrayRef<Val> stage) {
        return SmallVector<Val>{streamShare(small, stage[0], matrixOf(expert), strip, share, true)};
      });
    });
  }

  void consume(Small &small) {
    k.waitForPrevious();
    small.clear();
    prepare(small);
    SmallVector<Val> carried{k.i32(0), k.i32(0), k.i32(-1)}; // stage, turn, share that x holds
    carried = consumePieces(small, 0, false, carried);
    if (routed)
      consumePieces(small, pieces(), true, carried);
    finish(small);
  }

  SmallVector<Val> consumePieces(Small &small, int64_t low, bool routed, ArrayRef<Val> init) {
    return pieces(low, low + pieces(), init, [&](Val strip, Val share, ArrayRef<Val> carried) {
      Val stage = carried[0], turn = carried[1];
      const Stream &from = routed ? routedStream : this->stream;
      Share part = shareOf(routed ? share - splits : share, routed);
      k.ifThen(ne(share, carried[2]), [&] {
        small.consumerBarrier(); // all have used what was there
        loadX(small, part.first * from.blockColumns, part.count * from.blockColumns, routed);
        small.consumerBarrier();
      });
      CudaKernel::Acc sums = k.zeroAcc();
      if (routed) {
        Val token = min(k.shiftRight(k.lane(), 2), count - 1); // whose column this lane loads
        Val mine = expertOf(token);
        SmallVector<Val> all{stage};
        all.append(sums.begin(), sums.end());
        all = forExperts(all, [&](Val expert, ArrayRef<Val> s) {
          auto [next, acc] = small.multiply(s[0], from, stripOf(matrixOf(expert), strip, true),
                                            part.count, {s[1], s[2], s[3], s[4]}, eq(mine, expert));
          SmallVector<Val> out{next};
          out.append(acc.begin(), acc.end());
          return out;
        });
        stage = all[0];
        sums = {all[1], all[2], all[3], all[4]};
      } else {
        std::tie(stage, sums) =
            small.multiply(stage, from, stripOf(weight, strip, false), part.count, sums);
      }
      small.exchange(sums, turn);
      k.ifThen(lt(k.thread(), 128),
               [&] { store(strip, share, k.thread(), small.total(k.thread(), turn)); });
      return SmallVector<Val>{stage, turn + 1, share};
    });
  }

  Val rowOf(Val strip, Val i) { return strip * kStripRows + Small::rowOf(i); }

  // out[column][row] = total, float32 rows of `stride`.
  void storeRow(Ptr out, int64_t stride, Val strip, Val i, Val total) {
    Val row = rowOf(strip, i), column = Small::columnOf(i);
    k.ifThen(lt(row, rows) & lt(column, count), [&] {
      Val at = k.convert(column, k.i64()) * stride + k.convert(row, k.i64());
      k.store(out + at * 4, total);
    });
  }

  // h[column][row] += the sum of all shares, which the last block to bring one makes, in order.
  void addShares(Ptr h, Ptr partials, Ptr counters, Ptr flag, int64_t shares, Val strip, Val share,
                 Val i, Val total) {
    Val row = rowOf(strip, i), column = Small::columnOf(i);
    auto add = [&](Val sum) {
      k.ifThen(lt(row, rows) & lt(column, count), [&] {
        Val at = k.convert(column, k.i64()) * padded(rows) + k.convert(row, k.i64());
        k.store(h + at * 4, k.load(h + at * 4, k.f32()) + sum);
      });
    };
    if (shares == 1)
      return add(total);
    Ptr all = k.offset(partials, strip * (shares * 128 * 4) + i * 4);
    k.store(k.offset(all, share * (128 * 4)), total);
    Ptr counter = k.offset(counters, strip * 4);
    k.barrier(2, 128);
    k.ifThen(eq(i, 0), [&] { k.store(flag, k.atomicAdd(counter, k.i32(1))); });
    k.barrier(2, 128);
    k.ifThen(eq(k.load(flag, k.i32()), shares - 1), [&] {
      Val sum = k.load(all, k.f32());
      for (int64_t s = 1; s < shares; ++s)
        sum = sum + k.load(all + s * (128 * 4), k.f32());
      add(sum);
      k.ifThen(eq(i, 0), [&] { k.store(counter, k.i32(0)); });
    });
  }

  void emit() {
    int64_t most = std::max(shareBlocks * stream.blockColumns,
                            routed ? routedShareBlocks * routedStream.blockColumns : 0);
    Small small(k, most, {stream, routedStream});
    small.run([&] { produce(small); }, [&] { consume(small); });
  }
};

} // namespace

static Ptr rowAt(CudaKernel &k, Ptr base, Val t, int64_t bytes) {
  return base + k.convert(t, k.i64()) * bytes;
}

static void emitNormed(CudaKernel &k, SmallLinear &linear, Ptr norm, float eps,
                       std::function<Ptr(Val)> rowOf) {
  int64_t hidden = linear.columns;
  linear.prepare = [=, &linear, before = linear.prepare](Small &small) {
    before(small);
    small.computeScales(linear.count, rowOf, hidden, eps);
  };
  linear.loadX = [=, &linear](Small &small, Val first, Val n, bool) {
    small.loadNormed(linear.count, rowOf, norm, first, n, hidden);
  };
  linear.emit();
}

static void emitQkv(CudaKernel &k, const CudaQkvSpec &s, int64_t splits) {
  Ptr h = k.operand(0), sums = k.operand(3);
  SmallLinear linear{k, s.rows, s.hidden, splits, s.format};
  linear.weight = k.operand(2);
  linear.count = k.tokens();
  linear.store = [&](Val strip, Val share, Val i, Val total) {
    Val before = k.convert(share * linear.count, k.i64());
    linear.storeRow(sums + before * (s.rows * 4), s.rows, strip, i, total);
  };
  emitNormed(k, linear, k.operand(1), s.eps,
             [&](Val t) { return rowAt(k, h, t, padded(s.hidden) * 4); });
}

// Each of the 128 threads that store keeps the largest of its logits, which all are of one row.
static void emitHead(CudaKernel &k, const HeadSpec &s) {
  Ptr rows = k.operand(0), sampling = k.operand(1), h = k.operand(2), logits = k.operand(5);
  SmallLinear linear{k, s.vocabulary, s.hidden, 1, s.format};
  linear.weight = k.operand(4);
  linear.count = k.rows();
  BestLogits best(k, k.operand(6), k.operand(7));
  Ptr keys = k.shared(128 * 8);
  auto keyOf = [&](Val i) { return k.offset(keys, i * 8); };
  linear.prepare = [&](Small &) { // computeScales and loadX have barriers
    k.ifThen(lt(k.thread(), 128), [&] { k.store(keyOf(k.thread()), k.i64(0)); });
  };
  linear.store = [&](Val strip, Val, Val i, Val total) {
    Val row = linear.rowOf(strip, i), column = Small::columnOf(i);
    k.ifThen(lt(row, s.vocabulary) & lt(column, linear.count), [&] {
      Val key = unsignedMax(k.load(keyOf(i), k.i64()), logitKey(k, total, row));
      k.store(keyOf(i), key);
      k.ifThen(writesLogits(k, sampling, column), [&] {
        Val at = k.convert(column, k.i64()) * s.vocabulary + k.convert(row, k.i64());
        k.store(logits + at * 4, total);
      });
    });
  };
  linear.finish = [&](Small &small) {
    small.consumerBarrier();
    Val column = k.thread(); // its keys are those of 16 threads: see Small::columnOf
    k.ifThen(lt(column, min(linear.count, k.i32(kSmallTokens))), [&] {
      Val key = k.i64(0), first = k.shiftRight(column, 1) * 4 + (column & 1);
      for (int64_t j = 0; j < 16; ++j)
        key = unsignedMax(key, k.load(keyOf(first + (j / 2 * 16 + j % 2 * 2)), k.i64()));
      best.offer(column, key);
    });
    best.finish(k.i32(0), Small::consumers, [&] { small.consumerBarrier(); });
  };
  emitNormed(k, linear, k.operand(3), s.eps, [&](Val r) {
    return rowAt(k, h, k.load(k.offset(rows, r * 4), k.i32()), padded(s.hidden) * 4);
  });
}

// With experts, their weights are of `routedFormat`.
static void emitResidual(CudaKernel &k, int64_t rows, int64_t columns, int64_t splits,
                         const WeightFormat &format,
                         const std::optional<WeightFormat> &routedFormat = std::nullopt) {
  const bool routed = routedFormat.has_value();
  int64_t shares = routed ? 2 * splits : splits, next = 0;
  Ptr x = k.operand(next++);
  SmallLinear linear{k, rows, columns, splits, format, routedFormat.value_or(format)};
  linear.routed = routed;
  if (routed)
    linear.experts = k.operand(next++);
  linear.weight = k.operand(next++);
  if (routed)
    linear.routedWeight = k.operand(next++);
  linear.count = k.tokens();
  Ptr h = k.operand(next++), partials = k.operand(next++), counters = k.operand(next++);
  Ptr flag = k.shared(4, 4);
  linear.loadX = [&](Small &small, Val first, Val n, bool fromRouted) {
    auto rowOf = [&](Val t) {
      return rowAt(k, x, fromRouted ? t + linear.count : t, padded(columns) * 2);
    };
    small.loadPlain(linear.count, rowOf, first, n);
  };
  linear.store = [&](Val strip, Val share, Val i, Val total) {
    linear.addShares(h, partials, counters, flag, shares, strip, share, i, total);
  };
  linear.emit();
}

void emitSmallLinear(CudaKernel &k, const CudaSpec &spec) {
  if (auto *s = std::get_if<CudaQkvSpec>(&spec.op))
    emitQkv(k, *s, spec.splits);
  else if (auto *s = std::get_if<HeadSpec>(&spec.op))
    emitHead(k, *s);
  else if (auto *s = std::get_if<LinearResidualSpec>(&spec.op))
    emitResidual(k, s->outputs, s->inputs, spec.splits, s->format);
  else if (auto *s = std::get_if<DownSpec>(&spec.op))
    emitResidual(k, s->hidden, s->width, spec.splits, s->shared,
                 s->experts ? std::optional(s->routed) : std::nullopt);
}

} // namespace moe::codegen
