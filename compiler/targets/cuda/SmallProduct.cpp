// Implements the products of small steps.
#include "compiler/targets/cuda/SmallProduct.h"

using namespace mlir;

namespace moe::codegen {

SmallProduct::SmallProduct(CudaKernel &k, int64_t rows, int64_t columns, int64_t splits,
                           const WeightFormat &format, Ptr weight, Val count,
                           const std::optional<Routed> &routed)
    : k(k), rows(rows), columns(columns), splits(splits), weight(weight), count(count),
      routed(routed), stream(format, columns),
      routedStream(routed ? routed->format : format, columns) {}

SmallProduct::Share SmallProduct::shareOf(Val share, bool routed) {
  int64_t blocks = (routed ? routedStream : stream).blocks;
  int64_t each = routed ? routedShareBlocks : shareBlocks;
  Val first = share * each;
  return {first, max(min(k.i32(blocks) - first, k.i32(each)), k.i32(0))};
}
Ptr SmallProduct::stripOf(Ptr matrix, Val strip, bool routed) {
  return matrix + k.convert(strip, k.i64()) * (routed ? routedStream : stream).stripBytes();
}
Ptr SmallProduct::matrixOf(Val expert) {
  return routed->weight + k.convert(expert, k.i64()) * (strips * routedStream.stripBytes());
}
Val SmallProduct::expertOf(Val t) { return k.load(k.offset(routed->experts, t * 4), k.i32()); }

Val SmallProduct::streamShare(Small &small, Val stage, Ptr matrix, Val strip, Val share,
                              bool routed) {
  Share part = shareOf(share, routed);
  return small.stream(stage, routed ? routedStream : stream, stripOf(matrix, strip, routed),
                      part.first, part.count);
}

// The first piece from `low` on that is this block's.
Val SmallProduct::firstFrom(int64_t low) {
  Val before = max(k.i32(low) - k.block() + k.blocks() - 1, k.i32(0)) / k.blocks();
  return k.block() + before * k.blocks();
}

// Of the pieces [low, high) those of this block, as strip and share.
SmallProduct::Values SmallProduct::eachPiece(int64_t low, int64_t high, ArrayRef<Val> init,
                                             function_ref<Values(Val, Val, ArrayRef<Val>)> body) {
  Val end = select(gt(count, 0), k.i32(high), k.i32(0));
  return k.stride(firstFrom(low), end, k.blocks(), init, [&](Val piece, ArrayRef<Val> carried) {
    return body(piece % strips, piece / strips, carried);
  });
}

// Once for each different expert among the tokens, in the order of their first tokens.
SmallProduct::Values SmallProduct::eachExpert(ArrayRef<Val> init,
                                              function_ref<Values(Val, ArrayRef<Val>)> body) {
  return k.stride(k.i32(0), count, k.i32(1), init, [&](Val t, ArrayRef<Val> carried) {
    Val expert = expertOf(t);
    Val seen = k.stride(k.i32(0), t, k.i32(1), {k.i32(0)}, [&](Val u, ArrayRef<Val> s) {
      return Values{select(eq(expertOf(u), expert), k.i32(1), s[0])};
    })[0];
    return k.choose(
        eq(seen, 0), [&] { return body(expert, carried); }, [&] { return Values(carried); });
  });
}

void SmallProduct::produce(Small &small) {
  Val stage = eachPiece(0, pieces(), {k.i32(0)}, [&](Val strip, Val share, ArrayRef<Val> carried) {
    return Values{streamShare(small, carried[0], weight, strip, share, false)};
  })[0];
  if (!routed)
    return;
  k.waitForPrevious(); // for the experts
  eachPiece(pieces(), 2 * pieces(), {stage}, [&](Val strip, Val share, ArrayRef<Val> carried) {
    share = share - splits;
    return eachExpert(carried, [&](Val expert, ArrayRef<Val> stage) {
      return Values{streamShare(small, stage[0], matrixOf(expert), strip, share, true)};
    });
  });
}

void SmallProduct::consume(Small &small, const Parts &parts) {
  k.waitForPrevious();
  small.clear();
  parts.prepare(small);
  Values carried{k.i32(0), k.i32(0), k.i32(-1)}; // stage, turn, share that x holds
  carried = consumePieces(small, parts, 0, false, carried);
  if (routed)
    consumePieces(small, parts, pieces(), true, carried);
  parts.finish(small);
}

SmallProduct::Values SmallProduct::consumePieces(Small &small, const Parts &parts, int64_t low,
                                                 bool routed, ArrayRef<Val> init) {
  return eachPiece(low, low + pieces(), init, [&](Val strip, Val share, ArrayRef<Val> carried) {
    Val stage = carried[0], turn = carried[1];
    const Stream &from = routed ? routedStream : this->stream;
    Share part = shareOf(routed ? share - splits : share, routed);
    k.ifThen(ne(share, carried[2]), [&] {
      small.consumerBarrier(); // all have used what was there
      parts.loadX(small, part.first * from.blockColumns, part.count * from.blockColumns, routed);
      small.consumerBarrier();
    });
    CudaKernel::Acc sums = k.zeroAcc();
    if (routed) {
      Val token = min(k.shiftRight(k.lane(), 2), count - 1); // whose column this lane loads
      Val mine = expertOf(token);
      Values all{stage};
      all.append(sums.begin(), sums.end());
      all = eachExpert(all, [&](Val expert, ArrayRef<Val> s) {
        auto [next, acc] = small.multiply(s[0], from, stripOf(matrixOf(expert), strip, true),
                                          part.count, {s[1], s[2], s[3], s[4]}, eq(mine, expert));
        Values out{next};
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
             [&] { parts.store(strip, share, k.thread(), small.total(k.thread(), turn)); });
    return Values{stage, turn + 1, share};
  });
}

void SmallProduct::run(const Parts &parts) {
  int64_t most = std::max(shareBlocks * stream.blockColumns,
                          routed ? routedShareBlocks * routedStream.blockColumns : 0);
  Small small(k, most, {stream, routedStream});
  small.run([&] { produce(small); }, [&] { consume(small, parts); });
}

SmallProduct::Parts SmallProduct::normed(const std::function<Ptr(Val)> &rowOf, Ptr norm,
                                         float eps) {
  Parts parts;
  parts.prepare = [=, this](Small &small) { small.computeScales(count, rowOf, columns, eps); };
  parts.loadX = [=, this](Small &small, Val first, Val n, bool) {
    small.loadNormed(count, rowOf, norm, first, n, columns);
  };
  return parts;
}

void SmallProduct::runResidual(Ptr x, Ptr h, Ptr partials, Ptr counters) {
  const int64_t shares = routed ? 2 * splits : splits;
  Ptr flag = k.shared(4, 4);
  Parts parts;
  parts.loadX = [&](Small &small, Val first, Val n, bool fromRouted) {
    auto rowOf = [&](Val t) {
      return x + k.convert(fromRouted ? t + count : t, k.i64()) * (padded(columns) * 2);
    };
    small.loadPlain(count, rowOf, first, n);
  };
  parts.store = [&](Val strip, Val share, Val i, Val total) {
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
  };
  run(parts);
}

} // namespace moe::codegen
