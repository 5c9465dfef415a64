// Implements what the kernels of small steps share.
#include "compiler/targets/cuda/Small.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;

namespace moe::codegen {

// Bytes of x's tile of 16 channels by 8 tokens: 8 for each lane, as mma wants its second operand.
static constexpr int64_t kXTile = 256;
static constexpr int64_t kPartial = 128 * 4; // sums of a warp

Stream::Stream(const WeightFormat &format, int64_t columns) : format(format) {
  if (format.quantized()) {
    codes = codeStrip(format, columns);
    wholeRows = scalesWholeRows(format, *codes);
    headBytes = wholeRows ? codes->headBytes : 0;
    blockColumns = wholeRows ? 64 : codes->blockColumns;
    blockBytes = wholeRows ? codes->tileBytes : codes->blockBytes();
  }
  blocks = llvm::divideCeil(padded(columns), blockColumns);
}

int64_t Small::Cut::blocksOf(const Stream &stream) const {
  // As many for each warp, to the nearest; or, of large blocks and small stages, one for every
  // second, fourth or eighth warp.
  const int64_t all = consumerWarps * stream.blockBytes;
  if (bytes * 2 >= all)
    return std::max<int64_t>((bytes + all / 2) / all, 1) * consumerWarps;
  return llvm::bit_floor(std::max<uint64_t>((bytes + bytes / 4) / stream.blockBytes, 1));
}

// Four stages of 16 KiB; fewer and smaller ones where x leaves less room.
Small::Cut Small::cutFor(const CudaTarget &target, int64_t columns, ArrayRef<Stream> streams) {
  constexpr int64_t enough = 4, least = 3, most = 6;
  const int64_t others = 1536 + 2 * consumerWarps * kPartial; // beside x and the ring
  const int64_t room = target.sharedBytes - columns / 16 * kXTile - others;
  Cut cut{};
  for (int64_t kib : {16, 8, 4, 2}) {
    cut.bytes = kib * 1024;
    cut.stageBytes = 0;
    for (const Stream &stream : streams)
      cut.stageBytes = std::max(cut.stageBytes, cut.blocksOf(stream) * stream.blockBytes);
    cut.stages = std::clamp(room / cut.stageBytes, least, kib == 16 ? enough : most);
    if (room >= (kib == 16 ? enough : least) * cut.stageBytes)
      break;
  }
  return cut;
}

Small::Small(CudaKernel &k, int64_t columns, ArrayRef<Stream> streams)
    : k(k), cut(cutFor(k.target, columns, streams)),
      ring(k, cut.stages, cut.stageBytes, consumerWarps), x(k.shared(columns / 16 * kXTile)),
      partial(k.shared(2 * consumerWarps * kPartial)), scales(k.shared(kSmallTokens * 4)),
      warpSums(k.shared(consumerWarps * 4)), columns(columns) {
  k.threads = consumers + 32;
}

void Small::run(function_ref<void()> produce, function_ref<void()> consume) {
  k.barrier(); // of the ring
  k.startNext();
  k.ifElse(eq(k.warp(), consumerWarps), produce, consume);
}

Val Small::stream(Val stage, const Stream &stream, Ptr strip, Val first, Val blocks) {
  const int64_t stageBlocks = cut.blocksOf(stream);
  Ptr from = strip + k.convert(first, k.i64()) * stream.blockBytes + stream.headBytes;
  return k.stride(k.i32(0), blocks, k.i32(stageBlocks), {stage},
                  [&](Val at, ArrayRef<Val> carried) {
                    Val i = carried[0];
                    Val bytes = min(blocks - at, k.i32(stageBlocks)) * stream.blockBytes;
                    Ptr place = ring.acquire(i);
                    ring.begin(i, bytes);
                    ring.copy(i, place, k.offset(from, at * stream.blockBytes), bytes);
                    ring.end(i);
                    return SmallVector<Val>{i + 1};
                  })[0];
}

Val Small::blockSum(Val value) {
  value = k.warpSum(value);
  consumerBarrier(); // the sums before were read
  k.ifThen(k.one(), [&] { k.store(k.offset(warpSums, k.warp() * 4), value); });
  consumerBarrier();
  Val sum = k.load(warpSums, k.f32());
  for (int64_t w = 1; w < consumerWarps; ++w)
    sum = sum + k.load(warpSums + w * 4, k.f32());
  return sum;
}

void Small::computeScales(Val count, function_ref<Ptr(Val)> rowOf, int64_t n, float eps) {
  k.stride(k.i32(0), count, k.i32(1), [&](Val t) {
    Ptr row = rowOf(t);
    // Four channels at a time; what is left, one by one.
    int64_t whole = n / 4 * 4;
    Val squares = k.stride(k.thread() * 4, k.i32(whole), k.i32(consumers * 4), {k.f32(0)},
                           [&](Val c, ArrayRef<Val> carried) {
                             Val v = k.load(k.offset(row, c * 4), k.vec(4, k.f32()));
                             Val s = carried[0];
                             for (int64_t j = 0; j < 4; ++j)
                               s = fma(k.at(v, j), k.at(v, j), s);
                             return SmallVector<Val>{s};
                           })[0];
    squares = k.stride(k.thread() + whole, k.i32(n), k.i32(consumers), {squares},
                       [&](Val c, ArrayRef<Val> carried) {
                         Val v = k.load(k.offset(row, c * 4), k.f32());
                         return SmallVector<Val>{fma(v, v, carried[0])};
                       })[0];
    Val scale = k.inverseRms(blockSum(squares), n, eps);
    k.ifThen(eq(k.thread(), 0), [&] { k.store(k.offset(scales, t * 4), scale); });
  });
  consumerBarrier();
}

void Small::clear() {
  Val zero = k.constant(k.vec(4, k.i32()), 0);
  k.stride(k.thread() * 16, k.i32(columns / 16 * kXTile), k.i32(consumers * 16),
           [&](Val at) { k.store(k.offset(x, at), zero); });
}

// Where the pair of channels c, c + 1 of token t lies in x.
static Ptr pairIn(CudaKernel &k, Ptr x, Val t, Val c) {
  Val lane = t * 4 + k.shiftRight(c & 7, 1);
  return k.offset(x, k.shiftRight(c, 4) * kXTile + lane * 8 + (k.shiftRight(c, 3) & 1) * 4);
}

void Small::loadNormed(Val count, function_ref<Ptr(Val)> rowOf, Ptr norm, Val first, Val n,
                       int64_t valid) {
  k.stride(k.i32(0), count, k.i32(1), [&](Val t) {
    Ptr row = rowOf(t);
    Val scale = scaleOf(t);
    k.stride(k.thread() * 2, n, k.i32(consumers * 2), [&](Val c) {
      auto channel = [&](Val at) {
        return k.choose(
            lt(at, valid),
            [&] {
              Val y = k.load(k.offset(row, at * 4), k.f32()) * scale *
                      k.load(k.offset(norm, at * 4), k.f32(), true);
              return SmallVector<Val>{y};
            },
            [&] { return SmallVector<Val>{k.f32(0)}; })[0];
      };
      Val pair = k.pack(Half::BF16, channel(first + c), channel(first + c + 1));
      k.store(pairIn(k, x, t, c), pair);
    });
  });
}

void Small::loadPlain(Val count, function_ref<Ptr(Val)> rowOf, Val first, Val n) {
  k.stride(k.i32(0), count, k.i32(1), [&](Val t) {
    Ptr row = k.offset(rowOf(t), first * 2);
    k.stride(k.thread() * 8, n, k.i32(consumers * 8), [&](Val c) {
      Val v = k.load(k.offset(row, c * 2), k.vec(4, k.i32()));
      Ptr to = pairIn(k, x, t, c);
      for (int64_t j = 0; j < 4; ++j)
        k.store(to + j * 8, k.at(v, j));
    });
  });
}

SmallVector<Val> Small::xOf(Val tile, const std::optional<Val> &wanted) {
  Val pairs = k.load(k.offset(x, tile * kXTile + k.lane() * 8), k.vec(2, k.i32()));
  SmallVector<Val> b{k.at(pairs, 0), k.at(pairs, 1)};
  if (wanted)
    for (Val &pair : b)
      pair = select(*wanted, pair, k.i32(0));
  return b;
}

SmallVector<Val> Small::multiplyBlock(const Stream &stream, Ptr block, Val xTile,
                                      ArrayRef<Val> sums, const std::optional<Val> &wanted) {
  if (!stream.codes) {
    SmallVector<Val> b = xOf(xTile, wanted);
    Val a = k.load(k.offset(block, k.lane() * 16), k.vec(4, k.i32()));
    auto next = k.mma(Half::BF16, {k.at(a, 0), k.at(a, 1), k.at(a, 2), k.at(a, 3)}, b,
                      {sums[0], sums[1], sums[2], sums[3]});
    return SmallVector<Val>(next.begin(), next.end());
  }
  Codes codes(k, stream.format, *stream.codes);
  SmallVector<Val> out(sums);
  if (stream.wholeRows) {
    SmallVector<Val> words = codes.load(block);
    CudaKernel::Acc acc{sums[0], sums[1], sums[2], sums[3]};
    for (int64_t k16 = 0; k16 < 4; ++k16)
      acc = k.mma(Half::BF16, codes.operand(words, k16, codes.biases({}, 0)),
                  xOf(xTile + k16, wanted), acc);
    llvm::copy(acc, out.begin());
    return out;
  }
  // Sums of their own for each group, and for each tile of it, so that products wait less for each
  // other.
  for (int64_t group = 0; group < stream.codes->groupsPerBlock; ++group) {
    Codes::Rows biases = codes.biases(block, group);
    SmallVector<Val> part;
    for (int64_t tile = 0; tile < stream.codes->tiles(); ++tile) {
      SmallVector<Val> words =
          codes.load(block + stream.codes->headBytes + tile * stream.codes->tileBytes);
      CudaKernel::Acc acc = k.zeroAcc();
      int64_t first = group * codes.productsOfGroup();
      for (int64_t k16 = first; k16 < first + codes.productsOfGroup(); ++k16)
        acc = k.mma(Half::BF16, codes.operand(words, k16, biases),
                    xOf(xTile + (tile * 4 + k16), wanted), acc);
      if (part.empty())
        part.assign(acc.begin(), acc.end());
      else
        for (int64_t i = 0; i < 4; ++i)
          part[i] = part[i] + acc[i];
    }
    Codes::add(out, part, codes.scales(block, group));
  }
  return out;
}

std::pair<Val, CudaKernel::Acc> Small::multiply(Val stage, const Stream &stream, Ptr strip,
                                                Val blocks, const CudaKernel::Acc &sums,
                                                std::optional<Val> wanted) {
  const int64_t xTiles = stream.blockColumns / 16, stageBlocks = cut.blocksOf(stream);
  std::optional<Codes::Rows> scales; // on their way while the products are made
  if (stream.wholeRows)
    scales = Codes(k, stream.format, *stream.codes).scales(strip, 0);
  CudaKernel::Acc first = scales ? k.zeroAcc() : sums;
  SmallVector<Val> init{stage};
  init.append(first.begin(), first.end());
  auto out =
      k.stride(k.i32(0), blocks, k.i32(stageBlocks), init, [&](Val at, ArrayRef<Val> carried) {
        Val i = carried[0], left = blocks - at;
        Ptr place = ring.await(i);
        auto product = [&](Val block, ArrayRef<Val> acc) {
          return multiplyBlock(stream, k.offset(place, block * stream.blockBytes),
                               (at + block) * xTiles, acc, wanted);
        };
        // A warp has every eighth block of the strip, however many make a stage.
        SmallVector<Val> acc(carried.drop_front());
        if (stageBlocks < consumerWarps) {
          Val mine = (k.warp() - at) & (consumerWarps - 1);
          acc = k.choose(
              lt(mine, min(left, k.i32(stageBlocks))), [&] { return product(mine, acc); },
              [&] { return acc; });
        } else {
          acc = k.choose(
              ge(left, stageBlocks),
              [&] {
                SmallVector<Val> all = acc;
                for (int64_t u = 0; u < stageBlocks; u += consumerWarps)
                  all = product(k.warp() + u, all);
                return all;
              },
              [&] {
                return k.stride(
                    k.warp(), left, k.i32(consumerWarps), acc,
                    [&](Val block, ArrayRef<Val> some) { return product(block, some); });
              });
        }
        ring.release(i);
        SmallVector<Val> next{i + 1};
        next.append(acc);
        return next;
      });
  CudaKernel::Acc result{out[1], out[2], out[3], out[4]};
  if (scales) {
    CudaKernel::Acc part = std::exchange(result, sums);
    Codes::add(result, part, *scales);
  }
  return {out[0], result};
}

void Small::exchange(const CudaKernel::Acc &sums, Val turn) {
  Ptr mine = k.offset(partial, (turn & 1) * (consumerWarps * kPartial) + k.warp() * kPartial +
                                   k.lane() * 16);
  k.store(mine, k.vectorOf({sums[0], sums[1], sums[2], sums[3]}));
  // Two sets of sums in turn: a warp that writes this set again has passed the barrier between,
  // so those that read it were done.
  consumerBarrier();
}

Val Small::total(Val i, Val turn) {
  Ptr set = k.offset(partial, (turn & 1) * (consumerWarps * kPartial) + i * 4);
  Val sum = k.load(set, k.f32());
  for (int64_t w = 1; w < consumerWarps; ++w)
    sum = sum + k.load(set + w * kPartial, k.f32());
  return sum;
}

// Element i % 4 of lane i / 4: see the layout of the accumulators of mma.m16n8k16.
Val Small::rowOf(Val i) {
  CudaKernel &k = static_cast<CudaKernel &>(*i.b);
  return k.shiftRight(i, 4) + (k.shiftRight(i, 1) & 1) * 8;
}
Val Small::columnOf(Val i) {
  CudaKernel &k = static_cast<CudaKernel &>(*i.b);
  return (k.shiftRight(i, 2) & 3) * 2 + (i & 1);
}

} // namespace moe::codegen
