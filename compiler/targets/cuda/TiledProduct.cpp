// Implements the products of larger steps.
//
// A block multiplies 128 rows of a weight, 8 strips, by up to `tile` tokens at a time: a piece.
// Producer warps fill a ring of stages of 64 columns: the strips of the weight as they lie in
// memory, where a lane finds what it multiplies in 16 bytes, and rows of x, gathered by token, with
// the 16-byte chunks of a row exchanged as the 128-byte swizzle of wgmma has it, which also keeps
// ldmatrix free of bank conflicts. Eight consumer warps multiply as many columns as there are
// tokens, rounded up to one of a few widths, and leave the results in registers.
//
// With mma.sync a warp loads both operands. With wgmma it loads its strip, and the tensor cores
// read x from shared memory themselves: the tiles of large steps, where mma.sync is short of the
// rate.
//
// Codes come as they lie in memory too, a tile of 64 columns a stage, with the scales of its group
// before them. A warp turns them into bf16 as it loads them, and gives each group's sums its scale;
// where a group is a whole row, once, at the end.
//
// Sums run over K in order, whatever the piece and its width are, so that a result does not depend
// on the other tokens of the step or on the grid.
#include "compiler/targets/cuda/TiledProduct.h"

using namespace mlir;

namespace moe::codegen {

static constexpr int64_t kLag = 2;    // stages that copies of x for wgmma have to arrive
static constexpr int64_t kChunk = 16; // bytes that a copy moves
static constexpr int64_t kProducers = 32 * TiledProduct::producerWarps;

TiledProduct::TiledProduct(CudaKernel &k, const TiledShape &shape, int64_t tile, Ptr x,
                           const TiledPieces::Operands &operands)
    : k(k), shape(shape), x(x), work(k, shape, tile, operands) {
  k.threads = 32 * consumerWarps + kProducers;
}

void TiledProduct::run(Epilogue epilogue) {
  k.ifThen(eq(k.warp(), consumerWarps), [&] {
    k.ifThen(k.one(), [&] { ring.initialise(); });
    k.syncWarp();
    prefetch();
  });
  k.startNext();
  k.waitForPrevious();
  k.ifThen(eq(k.warp(), 0), [&] { work.list(); });
  k.barrier();
  work.listed();
  // The sums of the widest tile take more registers than an even share.
  bool shifts = wgmma && (tile > 128 || work.shared.codes || work.routed.codes);
  k.ifElse(
      ge(k.warp(), consumerWarps),
      [&] {
        if (shifts)
          k.ptx("setmaxnreg.dec.sync.aligned.u32 72;", {}, {}, "~{memory}");
        produce();
      },
      [&] {
        if (shifts)
          k.ptx("setmaxnreg.inc.sync.aligned.u32 216;", {}, {}, "~{memory}");
        consume(epilogue);
      });
}

//===----------------------------------------------------------------------===//
// Producers
//===----------------------------------------------------------------------===//

// Stages of a run, as a number that LLVM does not know: unrolled loops run out of registers.
Val TiledProduct::stageCount(const Run &run) {
  return k.ptx("mov.b32 $0, " + std::to_string(run.stages) + ";", k.i32(), {}, "=r")[0];
}

// By the first producer warp, with bulk copies: a strip for each of eight lanes.
void TiledProduct::copyWeights(const Piece &p, const Run &run, const TiledPieces::Weights &w, Val i,
                               Val j) {
  const int64_t bytes = run.strips->stageBytes, headBytes = run.strips->headBytes;
  Val strips = min(k.i32(stripCount) - p.strip, k.i32(kPieceStrips));
  ring.begin(i, strips * bytes);
  k.syncWarp();
  k.ifThen(lt(k.lane(), strips), [&] {
    auto parts = work.partsAt(w, run, j);
    Ptr to = k.offset(ring.at(i), k.lane() * bytes);
    if (headBytes)
      k.copyBulk(to, parts.head, k.i32(headBytes), ring.full(i));
    k.copyBulk(to + headBytes, parts.columns, k.i32(bytes - headBytes), ring.full(i));
  });
}

// By all producers, 16 bytes at a time. Strips past the last one become zeros.
void TiledProduct::copyChunks(const Piece &p, const TiledStrips &strips,
                              const TiledPieces::Parts &from, Ptr to, Val me) {
  auto copy = [&](Ptr part, int64_t offset, int64_t bytes) {
    const int64_t chunks = bytes / kChunk;
    k.stride(me, k.i32(kPieceStrips * chunks), k.i32(kProducers), [&](Val c) {
      Val strip = c / chunks, at = c % chunks * kChunk;
      k.copy16(k.offset(to, strip * strips.stageBytes + at) + offset,
               k.offset(part, strip * strips.bytes + at), lt(p.strip + strip, stripCount));
    });
  };
  if (strips.headBytes)
    copy(from.head, 0, strips.headBytes);
  copy(from.columns, strips.headBytes, strips.stageBytes - strips.headBytes);
}

// How many stages of the first piece are under way before the kernel before this one has ended:
// weights need not wait, if the tokens alone tell which they are.
Val TiledProduct::prefetched() {
  if (!k.target.bulkCopies || !work.hasPlain())
    return k.i32(0);
  return select(lt(k.block(), work.plainPieces()), k.i32(std::min(stages, stagesPerPiece)),
                k.i32(0));
}
void TiledProduct::prefetch() {
  if (!k.target.bulkCopies || !work.hasPlain())
    return;
  k.ifThen(lt(k.block(), work.plainPieces()), [&] {
    Piece p = work.plainPiece(k.block());
    const Run run = work.plainRun();
    auto w = work.weightsOf(p, run, k.lane());
    for (int64_t i = 0; i < std::min(stages, stagesPerPiece); ++i)
      copyWeights(p, run, w, k.i32(i), k.i32(i));
  });
}

void TiledProduct::produce() {
  Val me = k.thread() - consumerWarps * 32, early = prefetched();
  // Eight threads copy the chunks of a row; a thread has every 16th row.
  Val row = k.shiftRight(me, 3), chunk = me & 7;
  Val place = row * 128 + (chunk ^ (row & 7)) * kChunk + weightBytes;
  Val rowBytes = k.i32(columns * 2);
  Val end = work.eachPiece([&](const Piece &p, Val base) {
    // Columns past the last token are not stored: any row will do for them.
    SmallVector<Val> rows;
    for (int64_t r = 0; r < tile; r += 16)
      rows.push_back(work.tokenIn(p, min(row + r, p.count - 1)) * rowBytes + chunk * kChunk);
    work.eachRun(p, [&](const Run &run) {
      auto w = work.weightsOf(p, run, k.target.bulkCopies ? k.lane() : k.i32(0));
      k.loop(k.i32(0), stageCount(run), 1, [&](Val j) {
        Val i = base + j + run.first;
        Ptr to = ring.acquire(i);
        if (k.target.bulkCopies)
          k.ifThen(eq(k.warp(), consumerWarps) & ge(i, early),
                   [&] { copyWeights(p, run, w, i, j); });
        else
          copyChunks(p, *run.strips, work.partsAt(w, run, j), to, me);
        auto [second, column] = work.columnsOf(run, j);
        Ptr from = k.offset(x, column * (kStageColumns * 2));
        if (shape.joinsK) // the routed expert's rows of `hidden` come after all of the shared one's
          from = from + select(second, k.convert(k.tokens(), k.i64()), k.i64(0)) * (columns * 2);
        // As many rows as the width that consumers will choose.
        for (int64_t r = 0; r < tile; r += 16)
          k.ifThen(gt(p.count, r < 32 ? r : r / 32 * 32),
                   [&] { k.copy16(k.offset(to, place + r * 128), k.offset(from, rows[r / 16])); });
        if (!wgmma)
          return k.arriveWhenCopied(ring.full(i));
        // Tensor cores read it without the threads: each makes its part visible to them, when it
        // has arrived, which is some stages later.
        k.commitCopies();
        k.ifThen(ge(i, kLag), [&] {
          k.waitCopies(kLag);
          k.fenceProxy();
          k.arrive(ring.full(i - kLag));
        });
      });
    });
  });
  k.waitCopies(0); // nothing may be in flight when the block exits
  if (!wgmma)
    return;
  k.fenceProxy();
  for (int64_t behind = kLag; behind >= 1; --behind)
    k.ifThen(ge(end, behind), [&] { k.arrive(ring.full(end - behind)); });
}

//===----------------------------------------------------------------------===//
// Consumers
//===----------------------------------------------------------------------===//

StageStrip TiledProduct::loadStrip(TiledStrips &strips, Ptr place, Val strip) {
  return StageStrip(k, strips.codes, k.offset(place, strip * strips.stageBytes));
}
// The scales of whole rows, of strip `strip` of the piece; on their way while it multiplies.
Codes::Rows TiledProduct::rowScales(const Piece &p, const Run &run, Val strip) {
  Val last = k.i32(stripCount - 1) - p.strip; // past it nothing is stored
  return run.strips->codes->scales(work.weightsOf(p, run, min(strip, last)).first, 0);
}

static void scaleRows(MutableArrayRef<Val> sums, const Codes::Rows &scales) {
  for (size_t i = 0; i < sums.size(); ++i)
    sums[i] = sums[i] * scales[i / 2 % 2];
}

void TiledProduct::consume(Epilogue epilogue) {
  SmallVector<int64_t> widths{16};
  for (int64_t width = 32; width <= tile; width += 32)
    widths.push_back(width);
  work.eachPiece([&](const Piece &p, Val base) {
    int64_t low = 0;
    for (int64_t width : widths) {
      k.ifThen(gt(p.count, low) & le(p.count, width), [&] {
        work.eachRun(p, [&](const Run &run) {
          Val first = base + run.first;
          wgmma ? multiplyAsync(p, run, first, width, epilogue)
                : multiply(p, run, first, width, epilogue);
        });
      });
      low = width;
    }
  });
}

// The product of a run, whose stages are those from `base` on, `width` tokens wide. Few tokens:
// each warp has a strip. More: two strips and half of the tokens, so that what it loads is used
// more often.
void TiledProduct::multiply(const Piece &p, const Run &run, Val base, int64_t width,
                            Epilogue epilogue) {
  TiledStrips &stored = *run.strips;
  int64_t halves = width > 32 ? 2 : 1, strips = halves, columns8 = width / halves / 8;
  Val strip = k.warp() / halves * strips, first = k.warp() % halves * (width / halves);
  // Matrices of 8 tokens by 8 columns, two of tokens by two of columns: a lane names a row.
  Val row = (k.lane() & 7) + (k.shiftRight(k.lane(), 4) * 8) + first;
  Val chunk = ((k.shiftRight(k.lane(), 3) & 1) ^ (k.lane() & 7)) * kChunk;
  SmallVector<Val> sums(strips * columns8 * 4, k.f32(0));
  SmallVector<Codes::Rows> scales;
  for (int64_t n = 0; stored.wholeRows && n < strips; ++n)
    scales.push_back(rowScales(p, run, strip + n));
  sums = k.loop(k.i32(0), stageCount(run), 1, sums, [&](Val j, ArrayRef<Val> carried) {
    SmallVector<Val> sums(carried);
    Ptr place = ring.await(base + j), rows = k.offset(place, row * 128 + weightBytes);
    SmallVector<StageStrip> loaded;
    for (int64_t n = 0; n < strips; ++n)
      loaded.push_back(loadStrip(stored, place, strip + n));
    // Of codes each group has sums of its own, until its scale is known to them.
    const int64_t perGroup = 4 / stored.stageGroups;
    const bool apart = stored.scalesGroups();
    SmallVector<Val> part;
    for (int64_t k16 = 0; k16 < kStageColumns / 16; ++k16) {
      if (apart && k16 % perGroup == 0)
        part.assign(sums.size(), k.f32(0));
      SmallVectorImpl<Val> &to = apart ? part : sums;
      SmallVector<SmallVector<Val>> a;
      for (int64_t n = 0; n < strips; ++n)
        a.push_back(loaded[n].operand(k16));
      Ptr at = k.offset(rows, chunk ^ (k16 * 32));
      for (int64_t c = 0; c < columns8; c += 2) {
        auto b = k.loadMatrices(at + c * 8 * 128);
        for (int64_t n = 0; n < strips; ++n)
          for (int64_t half = 0; half < 2; ++half) {
            Val *sum = &to[(n * columns8 + c + half) * 4];
            auto next = k.mma(Half::BF16, a[n], {b[2 * half], b[2 * half + 1]},
                              {sum[0], sum[1], sum[2], sum[3]});
            llvm::copy(next, sum);
          }
      }
      if (apart && k16 % perGroup == perGroup - 1)
        for (int64_t n = 0; n < strips; ++n) {
          int64_t first = n * columns8 * 4, count = columns8 * 4;
          Codes::add(MutableArrayRef(sums).slice(first, count), ArrayRef(part).slice(first, count),
                     stored.codes->scales(k.offset(place, (strip + n) * stored.stageBytes),
                                          k16 / perGroup));
        }
    }
    ring.release(base + j);
    return sums;
  });
  for (int64_t n = 0; n < strips; ++n) {
    auto mine = MutableArrayRef(sums).slice(n * columns8 * 4, columns8 * 4);
    if (stored.wholeRows)
      scaleRows(mine, scales[n]);
    finish(p, p.strip + strip + n, first, mine, epilogue);
  }
}

// The same by wgmma: a warpgroup has four strips, a warp one of them, all of the tokens. A lane's
// part of a strip is in registers; those of the next stage are loaded while this one is under
// way.
void TiledProduct::multiplyAsync(const Piece &p, const Run &run, Val base, int64_t width,
                                 Epilogue epilogue) {
  TiledStrips &stored = *run.strips;
  const bool apart = stored.scalesGroups();
  int64_t n = width / 2; // sums of a lane
  std::optional<Codes::Rows> scales;
  if (stored.wholeRows)
    scales = rowScales(p, run, k.warp());
  auto weights = [&](Ptr place) { return loadStrip(stored, place, k.warp()).values(); };
  auto step = [&](Val j, ArrayRef<Val> in) {
    SmallVector<Val> sums(in.take_front(n)), a;
    StageStrip loaded(stored.codes, in.drop_front(n));
    for (int64_t k16 = 0; k16 < kStageColumns / 16; ++k16)
      a.append(loaded.operand(k16));
    // Of codes without the sums before, until the scale is known to these.
    SmallVector<Val> part = beginWgmma(k, Half::BF16, apart ? ArrayRef<Val>() : ArrayRef(sums),
                                       width, a, rowsOf(ring.at(base + j)));
    // After the last stage this one is loaded again.
    SmallVector<Val> next = weights(ring.await(base + min(j + 1, k.i32(run.stages - 1))));
    part = awaitWgmma(k, part, a);
    if (apart)
      Codes::add(
          sums, part,
          stored.codes->scales(k.offset(ring.at(base + j), k.warp() * stored.stageBytes), 0));
    else
      sums = part;
    ring.release(base + j);
    sums.append(next);
    return sums;
  };
  SmallVector<Val> carried(n, k.f32(0));
  carried.append(weights(ring.await(base)));
  // By twos, so that registers take turns: with copies between them ptxas loads into those that
  // are being read, sees it, and has products wait for each other.
  int64_t odd = run.stages % 2;
  if (odd)
    carried = step(k.i32(0), carried);
  carried = k.loop(k.i32(odd), stageCount(run), 2, carried,
                   [&](Val j, ArrayRef<Val> in) { return step(j + 1, step(j, in)); });
  auto sums = MutableArrayRef(carried).take_front(n);
  if (scales)
    scaleRows(sums, *scales);
  finish(p, p.strip + k.warp(), k.i32(0), sums, epilogue);
}

// The stage's rows of x: columns of the product.
SharedOperand TiledProduct::rowsOf(Ptr place) {
  SharedOperand b{place + weightBytes, /*rowBytes=*/128, /*byColumn=*/true};
  for (int64_t k16 = 0; k16 < kStageColumns / 16; ++k16)
    b.steps.push_back(k16 * 32);
  return b;
}

//===----------------------------------------------------------------------===//
// Results
//===----------------------------------------------------------------------===//

void TiledProduct::finish(const Piece &p, Val strip, Val first, ArrayRef<Val> sums,
                          Epilogue epilogue) {
  // Or LLVM computes all columns once for all pieces, and registers run out.
  Val column = k.here(first + (k.lane() & 3) * 2);
  for (size_t c = 0; c < sums.size() / 4; ++c)
    epilogue({p, strip, column + int64_t(c * 8), sums.slice(c * 4, 4)});
}

void TiledProduct::eachSum(const Sums &sums, Ptr out, int64_t width,
                           function_ref<void(Ptr, Val)> use, function_ref<Val(Val)> wanted) {
  const Piece &p = sums.piece;
  Val row = rowOf(sums);
  for (int64_t n = 0; n < 2; ++n) {
    Val place = sums.column + n, there = lt(place, p.count);
    k.ifThen(wanted ? there & wanted(place) : there, [&] {
      Val token = k.convert(tokenIn(p, place), k.i64());
      Ptr to = k.offset(out + token * (width * 4), row * 4);
      for (int64_t half = 0; half < 2; ++half)
        k.ifThen(lt(row + half * 8, shape.outputs),
                 [&] { use(to + half * 32, sums.values[half * 2 + n]); });
    });
  }
}

void TiledProduct::addTo(Ptr h, const Sums &sums) {
  // Nobody but this thread adds to it, so the order is given; unlike a load and a store, this does
  // not wait for the old value.
  eachSum(sums, h, padded(shape.outputs), [&](Ptr at, Val sum) {
    k.ptx("red.relaxed.gpu.global.add.f32 [$0], $1;", {}, {k.addressOf(at), sum}, "l,f,~{memory}");
  });
}

} // namespace moe::codegen
