// The products of larger steps: a weight times the rows of x of some tokens, with what becomes of
// the sums.
//
// A block multiplies 128 rows of a weight, 8 strips, by up to `tile` tokens at a time: a piece.
// Producer warps fill a ring of stages of 64 columns: the strips of the weight as they lie in
// memory, where a lane finds what it multiplies in 16 bytes, and rows of x, gathered by token, with
// the 16-byte chunks of a row exchanged as the 128-byte swizzle of wgmma has it, which also keeps
// ldmatrix free of bank conflicts. Eight consumer warps multiply as many columns as there are
// tokens, rounded up to one of a few widths, and write the results from registers.
//
// With mma.sync a warp loads both operands. With wgmma it loads its strip, and the tensor cores
// read x from shared memory themselves: the tiles of large steps, where mma.sync is short of the
// rate.
//
// Codes come as they lie in memory too, a tile of 64 columns a stage, with the scales of its group
// before them. A warp turns them into bf16 as it loads them, and gives each group's sums its scale.
//
// Sums run over K in order, whatever the piece and its width are, so that a result does not depend
// on the other tokens of the step or on the grid.
#include "compiler/codegen/cuda/BestLogit.h"
#include "compiler/codegen/cuda/Codes.h"
#include "compiler/codegen/cuda/CudaKernels.h"
#include "compiler/codegen/cuda/ExpertTiles.h"
#include "compiler/codegen/cuda/Wgmma.h"
#include <numbers>

using namespace mlir;
using llvm::divideCeil;

namespace moe::codegen {

namespace {

constexpr int64_t kStrips = 8;        // of a piece
constexpr int64_t kStageColumns = 64; // 128 bytes of a row of x
constexpr int64_t kLag = 2;           // stages that copies of x for wgmma have to arrive
constexpr int64_t kChunk = 16;        // bytes that a copy moves
constexpr int64_t kConsumerWarps = 8, kProducerWarps = 4, kProducers = 32 * kProducerWarps;

enum class Kind { Linear, Residual, GateUp, Down, Head };

struct Shape {
  Kind kind;
  int64_t inputs, outputs; // channels of a row of x and of a row of the result
  WeightFormat format;
  int64_t experts = 0;
};

Shape shapeOf(const CudaOp &op) {
  if (auto *s = std::get_if<LinearSpec>(&op))
    return {Kind::Linear, s->inputs, s->outputs, s->format};
  if (auto *s = std::get_if<HeadSpec>(&op))
    return {Kind::Head, s->hidden, s->vocabulary, s->format};
  if (auto *s = std::get_if<LinearResidualSpec>(&op))
    return {Kind::Residual, s->inputs, s->outputs, s->format};
  if (auto *s = std::get_if<GateUpSpec>(&op))
    return {Kind::GateUp, s->hidden, s->width, s->shared, s->experts};
  const auto &s = std::get<DownSpec>(op);
  return {Kind::Down, s.width, s.hidden, s.shared, s.experts};
}

// What a block does at a time. `matrix` is of the routed experts' or, where it is not of them, 0;
// its tokens are those in places first.. of their list.
struct Piece {
  Val strip, matrix, first, count;
  Val routed; // i1: whether tokens are listed in `order`
};

class TiledLinear {
public:
  TiledLinear(CudaKernel &k, const CudaSpec &spec) : k(k), s(shapeOf(spec.op)), spec(spec) {
    if (head)
      best.emplace(k, k.operand(4), k.operand(5));
  }

  void run() {
    bool lists = s.experts != 0;
    k.ifThen(eq(k.warp(), kConsumerWarps), [&] {
      k.ifThen(k.one(), [&] {
        for (int64_t i = 0; i < stages; ++i) {
          k.initBarrier(full + i * 8, kProducers + k.target.bulkCopies);
          k.initBarrier(empty + i * 8, kConsumerWarps);
        }
        k.barriersInitialised();
      });
      k.syncWarp();
      prefetch();
    });
    k.startNext();
    k.waitForPrevious();
    if (lists)
      k.ifThen(eq(k.warp(), 0), [&] { groups.list(offsets); });
    k.barrier();
    if (lists)
      routedTiles = groups.before(k.i32(s.experts));
    // The sums of the widest tile take more registers than an even share.
    bool shifts = wgmma && (tile > 128 || layout);
    k.ifElse(
        ge(k.warp(), kConsumerWarps),
        [&] {
          if (shifts)
            k.ptx("setmaxnreg.dec.sync.aligned.u32 72;", {}, {}, "~{memory}");
          produce();
        },
        [&] {
          if (shifts)
            k.ptx("setmaxnreg.inc.sync.aligned.u32 216;", {}, {}, "~{memory}");
          consume();
        });
    if (head)
      best->finish(k.i32(0), k.threads, [&] { k.barrier(); });
  }

private:
  //===--- Pieces --------------------------------------------------------------------------------
  // Their order: those of the same rows of a weight are neighbours, and so run at the same time.
  // First come all tiles of tokens for the shared expert, or for a plain weight; then, expert by
  // expert, its group's. `down` takes both experts' columns as one K, and so has groups alone: all
  // groups for the same rows, since the shared expert's weights are the same for them.

  bool joinsK() const { return s.kind == Kind::Down && s.experts; }
  bool hasPlain() const { return !joinsK(); }

  Val allTokens() { return head ? k.rows() : k.tokens(); }
  Val plainTiles() { return ceilDiv(allTokens(), tile); }
  Val plainPieces() { return hasPlain() ? plainTiles() * rowTiles : k.i32(0); }
  Val pieces() { return s.experts ? plainPieces() + routedTiles * rowTiles : plainPieces(); }

  // Tile `index` of the `tiles` that n tokens from place `begin` on are cut into, of equal size but
  // for the last.
  Piece pieceOf(Val rowTile, Val matrix, Val begin, Val n, Val index, Val tiles, Val routed) {
    Val size = ceilDiv((n + tiles - 1) / tiles, 16) * 16;
    return {rowTile * kStrips, matrix, begin + index * size, min(n - index * size, size), routed};
  }
  Piece plainPiece(Val item) {
    Val tiles = plainTiles();
    return pieceOf(item / tiles, k.i32(0), k.i32(0), allTokens(), item % tiles, tiles,
                   k.constant(k.i1(), 0));
  }
  Piece routedPiece(Val item) {
    // The tile that it is, of all groups'; or, where experts come one after the other, one that is
    // of the same group.
    Val tileOfAll = joinsK() ? item % routedTiles : item / rowTiles;
    Val e = groups.expertOf(tileOfAll);
    Val before = groups.before(e), tiles = groups.before(e + 1) - before;
    Val inGroup = joinsK() ? tileOfAll - before : item - before * rowTiles;
    Val begin = groups.begin(e), n = groups.begin(e + 1) - begin;
    return pieceOf(joinsK() ? item / routedTiles : inGroup / tiles, e, begin, n,
                   joinsK() ? inGroup : inGroup % tiles, tiles, k.constant(k.i1(), 1));
  }
  Piece pieceOf(Val item) {
    if (!s.experts)
      return plainPiece(item);
    if (joinsK())
      return routedPiece(item);
    auto values = [](const Piece &p) {
      return SmallVector<Val>{p.strip, p.matrix, p.first, p.count};
    };
    Val routed = ge(item, plainPieces());
    auto p = k.choose(
        routed, [&] { return values(routedPiece(item - plainPieces())); },
        [&] { return values(plainPiece(item)); });
    return {p[0], p[1], p[2], p[3], routed};
  }

  // With the piece, the number of its first stage; returns how many stages there were.
  Val eachPiece(function_ref<void(const Piece &, Val)> body) {
    return k.stride(k.block(), pieces(), k.blocks(), {k.i32(0)},
                    [&](Val item, ArrayRef<Val> stage) {
                      body(pieceOf(item), stage[0]);
                      return SmallVector<Val>{stage[0] + stagesPerPiece};
                    })[0];
  }

  // The token in a place of the piece's list.
  Val tokenIn(const Piece &p, Val place) {
    if (!s.experts)
      return p.first + place;
    Val at = p.first + place;
    Val listed = k.load(k.offset(order, at * 4), k.i32());
    return select(p.routed, listed, at);
  }

  //===--- The ring ------------------------------------------------------------------------------
  // A block counts its stages from 0 on, through all of its pieces; stage i is in place i % stages.

  Ptr placeOf(Val i) { return k.offset(memory, (i % stages) * stageBytes); }
  Ptr fullOf(Val i) { return k.offset(full, (i % stages) * 8); }
  Ptr emptyOf(Val i) { return k.offset(empty, (i % stages) * 8); }
  Val parityOf(Val i) { return (i / stages) & 1; }

  Ptr await(Val i) {
    k.waitBarrier(fullOf(i), parityOf(i));
    return placeOf(i);
  }
  void release(Val i) {
    k.syncWarp();
    k.ifThen(k.one(), [&] { k.arrive(emptyOf(i)); });
  }

  //===--- Producers -----------------------------------------------------------------------------

  Ptr either(Val condition, Ptr a, Ptr b) {
    return k.ptr(select(condition, k.val(a.value), k.val(b.value)).value);
  }
  // Where the weights of a piece begin, in a strip of it: with K joined, also the routed expert's.
  struct Weights {
    Ptr first, second;
  };
  Weights weightsOf(const Piece &p, Val strip) {
    Val inMatrix = k.convert(p.strip + strip, k.i64()) * stripBytes;
    if (!s.experts)
      return {weight + inMatrix, {}};
    Ptr expert = routedWeight + (k.convert(p.matrix, k.i64()) * matrixBytes + inMatrix);
    Ptr shared = weight + inMatrix;
    return {joinsK() ? shared : either(p.routed, expert, shared), expert};
  }
  // Stages of a piece, as a number that LLVM does not know: unrolled loops run out of registers.
  Val stageCount() {
    return k.ptx("mov.b32 $0, " + std::to_string(stagesPerPiece) + ";", k.i32(), {}, "=r")[0];
  }
  // Stage j of a piece: whether it is of the second K, and the number of its columns' stage.
  std::pair<Val, Val> columnsOf(Val j) {
    if (!joinsK())
      return {k.constant(k.i1(), 0), j};
    Val second = ge(j, kStages);
    return {second, j - select(second, k.i32(kStages), k.i32(0))};
  }
  // What a stage has of a strip: scales and zeros, of codes, and columns.
  struct Parts {
    Ptr head, columns;
  };
  Parts partsAt(const Weights &w, Val j) {
    auto [second, column] = columnsOf(j);
    Ptr from = joinsK() ? either(second, w.second, w.first) : w.first;
    if (!layout)
      return {{}, k.offset(from, column * stripStage)};
    Ptr block = k.offset(from, column / layout->tiles() * layout->blockBytes());
    Val tile = column % layout->tiles() * layout->tileBytes + layout->headBytes;
    return {block, k.offset(block, tile)};
  }

  // By the first producer warp, with bulk copies: a strip for each of eight lanes.
  void copyWeights(const Piece &p, const Weights &w, Val i, Val j) {
    Val strips = min(k.i32(stripCount) - p.strip, k.i32(kStrips));
    k.ifThen(k.one(), [&] { k.arriveExpecting(fullOf(i), strips * stripStage); });
    k.syncWarp();
    k.ifThen(lt(k.lane(), strips), [&] {
      Parts parts = partsAt(w, j);
      Ptr to = k.offset(placeOf(i), k.lane() * stripStage);
      if (headBytes)
        k.copyBulk(to, parts.head, k.i32(headBytes), fullOf(i));
      k.copyBulk(to + headBytes, parts.columns, k.i32(stripStage - headBytes), fullOf(i));
    });
  }

  // By all producers, 16 bytes at a time. Strips past the last one become zeros.
  void copyChunks(const Piece &p, const Parts &from, Ptr to, Val me) {
    auto copy = [&](Ptr part, int64_t offset, int64_t bytes) {
      const int64_t chunks = bytes / kChunk;
      k.stride(me, k.i32(kStrips * chunks), k.i32(kProducers), [&](Val c) {
        Val strip = c / chunks, at = c % chunks * kChunk;
        k.copy16(k.offset(to, strip * stripStage + at) + offset,
                 k.offset(part, strip * stripBytes + at), lt(p.strip + strip, stripCount));
      });
    };
    if (headBytes)
      copy(from.head, 0, headBytes);
    copy(from.columns, headBytes, stripStage - headBytes);
  }

  // How many stages of the first piece are under way before the kernel before this one has ended:
  // weights need not wait, if the tokens alone tell which they are.
  Val prefetched() {
    if (!k.target.bulkCopies || !hasPlain())
      return k.i32(0);
    return select(lt(k.block(), plainPieces()), k.i32(std::min(stages, stagesPerPiece)), k.i32(0));
  }
  void prefetch() {
    if (!k.target.bulkCopies || !hasPlain())
      return;
    k.ifThen(lt(k.block(), plainPieces()), [&] {
      Piece p = plainPiece(k.block());
      Weights w = weightsOf(p, k.lane());
      for (int64_t i = 0; i < std::min(stages, stagesPerPiece); ++i)
        copyWeights(p, w, k.i32(i), k.i32(i));
    });
  }

  void produce() {
    Val me = k.thread() - kConsumerWarps * 32, early = prefetched();
    // Eight threads copy the chunks of a row; a thread has every 16th row.
    Val row = k.shiftRight(me, 3), chunk = me & 7;
    Val place = row * 128 + (chunk ^ (row & 7)) * kChunk + weightBytes;
    Val rowBytes = k.i32(columns * 2);
    Val end = eachPiece([&](const Piece &p, Val base) {
      Weights w = weightsOf(p, k.target.bulkCopies ? k.lane() : k.i32(0));
      // Columns past the last token are not stored: any row will do for them.
      SmallVector<Val> rows;
      for (int64_t r = 0; r < tile; r += 16)
        rows.push_back(tokenIn(p, min(row + r, p.count - 1)) * rowBytes + chunk * kChunk);
      k.loop(k.i32(0), stageCount(), 1, [&](Val j) {
        Val i = base + j;
        // The first round finds every place empty.
        k.waitBarrier(emptyOf(i), parityOf(i) ^ 1);
        Ptr to = placeOf(i);
        if (k.target.bulkCopies)
          k.ifThen(eq(k.warp(), kConsumerWarps) & ge(i, early), [&] { copyWeights(p, w, i, j); });
        else
          copyChunks(p, partsAt(w, j), to, me);
        auto [second, column] = columnsOf(j);
        Ptr from = k.offset(x, column * (kStageColumns * 2));
        if (joinsK()) // the routed expert's rows of `hidden` come after all of the shared one's
          from = from + select(second, k.convert(k.tokens(), k.i64()), k.i64(0)) * (columns * 2);
        // As many rows as the width that consumers will choose.
        for (int64_t r = 0; r < tile; r += 16)
          k.ifThen(gt(p.count, r < 32 ? r : r / 32 * 32),
                   [&] { k.copy16(k.offset(to, place + r * 128), k.offset(from, rows[r / 16])); });
        if (!wgmma)
          return k.arriveWhenCopied(fullOf(i));
        // Tensor cores read it without the threads: each makes its part visible to them, when it
        // has arrived, which is some stages later.
        k.commitCopies();
        k.ifThen(ge(i, kLag), [&] {
          k.waitCopies(kLag);
          k.fenceProxy();
          k.arrive(fullOf(i - kLag));
        });
      });
    });
    k.waitCopies(0); // nothing may be in flight when the block exits
    if (!wgmma)
      return;
    k.fenceProxy();
    for (int64_t behind = kLag; behind >= 1; --behind)
      k.ifThen(ge(end, behind), [&] { k.arrive(fullOf(end - behind)); });
  }

  //===--- Consumers -----------------------------------------------------------------------------

  StageStrip loadStrip(Ptr place, Val strip) {
    return StageStrip(k, codes, k.offset(place, strip * stripStage));
  }

  void consume() {
    SmallVector<int64_t> widths{16};
    for (int64_t width = 32; width <= tile; width += 32)
      widths.push_back(width);
    eachPiece([&](const Piece &p, Val base) {
      int64_t low = 0;
      for (int64_t width : widths) {
        k.ifThen(gt(p.count, low) & le(p.count, width),
                 [&] { wgmma ? multiplyAsync(p, base, width) : multiply(p, base, width); });
        low = width;
      }
    });
  }

  // The piece's product, `width` tokens wide. Few tokens: each warp has a strip. More: two strips
  // and half of the tokens, so that what it loads is used more often.
  void multiply(const Piece &p, Val base, int64_t width) {
    int64_t halves = width > 32 ? 2 : 1, strips = halves, columns8 = width / halves / 8;
    Val strip = k.warp() / halves * strips, first = k.warp() % halves * (width / halves);
    // Matrices of 8 tokens by 8 columns, two of tokens by two of columns: a lane names a row.
    Val row = (k.lane() & 7) + (k.shiftRight(k.lane(), 4) * 8) + first;
    Val chunk = ((k.shiftRight(k.lane(), 3) & 1) ^ (k.lane() & 7)) * kChunk;
    SmallVector<Val> sums(strips * columns8 * 4, k.f32(0));
    sums = k.loop(k.i32(0), stageCount(), 1, sums, [&](Val j, ArrayRef<Val> carried) {
      SmallVector<Val> sums(carried);
      Ptr place = await(base + j), rows = k.offset(place, row * 128 + weightBytes);
      SmallVector<StageStrip> loaded;
      for (int64_t n = 0; n < strips; ++n)
        loaded.push_back(loadStrip(place, strip + n));
      // Of codes each group has sums of its own, until its scale is known to them.
      const int64_t perGroup = 4 / groupsPerStage;
      SmallVector<Val> part;
      for (int64_t k16 = 0; k16 < kStageColumns / 16; ++k16) {
        if (codes && k16 % perGroup == 0)
          part.assign(sums.size(), k.f32(0));
        SmallVectorImpl<Val> &to = codes ? part : sums;
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
        if (codes && k16 % perGroup == perGroup - 1)
          for (int64_t n = 0; n < strips; ++n) {
            int64_t first = n * columns8 * 4, count = columns8 * 4;
            Codes::add(MutableArrayRef(sums).slice(first, count),
                       ArrayRef(part).slice(first, count),
                       codes->scales(k.offset(place, (strip + n) * stripStage), k16 / perGroup));
          }
      }
      release(base + j);
      return sums;
    });
    for (int64_t n = 0; n < strips; ++n)
      finish(p, p.strip + strip + n, first, ArrayRef(sums).slice(n * columns8 * 4, columns8 * 4));
  }

  // The same by wgmma: a warpgroup has four strips, a warp one of them, all of the tokens. A lane's
  // part of a strip is in registers; those of the next stage are loaded while this one is under
  // way.
  void multiplyAsync(const Piece &p, Val base, int64_t width) {
    int64_t n = width / 2; // sums of a lane
    auto weights = [&](Ptr place) { return loadStrip(place, k.warp()).values(); };
    auto step = [&](Val j, ArrayRef<Val> in) {
      SmallVector<Val> sums(in.take_front(n)), a;
      StageStrip loaded(codes, in.drop_front(n));
      for (int64_t k16 = 0; k16 < kStageColumns / 16; ++k16)
        a.append(loaded.operand(k16));
      // Of codes without the sums before, until the scale is known to these.
      SmallVector<Val> part = beginWgmma(k, Half::BF16, codes ? ArrayRef<Val>() : ArrayRef(sums),
                                         width, a, rowsOf(placeOf(base + j)));
      // After the last stage this one is loaded again.
      SmallVector<Val> next = weights(await(base + min(j + 1, k.i32(stagesPerPiece - 1))));
      part = awaitWgmma(k, part, a);
      if (codes)
        Codes::add(sums, part,
                   codes->scales(k.offset(placeOf(base + j), k.warp() * stripStage), 0));
      else
        sums = part;
      release(base + j);
      sums.append(next);
      return sums;
    };
    SmallVector<Val> carried(n, k.f32(0));
    carried.append(weights(await(base)));
    // By twos, so that registers take turns: with copies between them ptxas loads into those that
    // are being read, sees it, and has products wait for each other.
    int64_t odd = stagesPerPiece % 2;
    if (odd)
      carried = step(k.i32(0), carried);
    carried = k.loop(k.i32(odd), stageCount(), 2, carried,
                     [&](Val j, ArrayRef<Val> in) { return step(j + 1, step(j, in)); });
    finish(p, p.strip + k.warp(), k.i32(0), ArrayRef(carried).take_front(n));
  }

  // The stage's rows of x: columns of the product.
  SharedOperand rowsOf(Ptr place) {
    SharedOperand b{place + weightBytes, /*rowBytes=*/128, /*byColumn=*/true};
    for (int64_t k16 = 0; k16 < kStageColumns / 16; ++k16)
      b.steps.push_back(k16 * 32);
    return b;
  }

  //===--- Results -------------------------------------------------------------------------------
  // Of eight tokens a lane has rows g and g + 8 of tokens 2 q and 2 q + 1 in the order (g, 2 q),
  // (g, 2 q + 1), (g + 8, 2 q), (g + 8, 2 q + 1).

  void finish(const Piece &p, Val strip, Val first, ArrayRef<Val> sums) {
    // Through inline PTX, or LLVM computes all columns once for all pieces, and registers run out.
    Val column0 = k.ptx("mov.b32 $0, $1;", k.i32(), {first + (k.lane() & 3) * 2}, "=r,r")[0];
    for (size_t c = 0; c < sums.size() / 4; ++c) {
      Val column = column0 + int64_t(c * 8);
      ArrayRef<Val> four = sums.slice(c * 4, 4);
      if (head)
        offerRows(p, strip, column, four);
      s.kind == Kind::GateUp ? writeHidden(p, strip, column, four)
                             : writeRows(p, strip, column, four);
    }
  }

  // The largest of the strip's logits of each token: of the lane's two rows, then of its column's
  // eight lanes.
  void offerRows(const Piece &p, Val strip, Val column, ArrayRef<Val> sums) {
    Val row = strip * kStripRows + k.shiftRight(k.lane(), 2);
    for (int64_t n = 0; n < 2; ++n) {
      Val key = k.i64(0);
      for (int64_t half = 0; half < 2; ++half) {
        Val logit = logitKey(k, sums[half * 2 + n], row + half * 8);
        key = unsignedMax(key, select(lt(row + half * 8, s.outputs), logit, k.i64(0)));
      }
      for (int64_t mask : {4, 8, 16})
        key = unsignedMax(key, shuffleXor64(k, key, mask));
      k.ifThen(lt(k.lane(), 4) & lt(column + n, p.count),
               [&] { best->offer(p.first + column + n, key); });
    }
  }

  void writeRows(const Piece &p, Val strip, Val column, ArrayRef<Val> sums) {
    bool adds = s.kind == Kind::Residual || s.kind == Kind::Down;
    int64_t width = adds ? padded(s.outputs) : s.outputs;
    Val row = strip * kStripRows + k.shiftRight(k.lane(), 2);
    for (int64_t n = 0; n < 2; ++n)
      k.ifThen(lt(column + n, p.count) & wanted(p, column + n), [&] {
        Val token = k.convert(tokenIn(p, column + n), k.i64());
        Ptr to = k.offset(out + token * (width * 4), row * 4);
        for (int64_t half = 0; half < 2; ++half)
          k.ifThen(lt(row + half * 8, s.outputs), [&] {
            Ptr at = to + half * 32;
            Val sum = sums[half * 2 + n];
            // Nobody else adds to it, so the order is given; unlike a load and a store, this does
            // not wait for the old value.
            if (adds)
              k.ptx("red.relaxed.gpu.global.add.f32 [$0], $1;", {}, {k.addressOf(at), sum},
                    "l,f,~{memory}");
            else
              k.store(at, sum);
          });
      });
  }

  // Whether the token's row of the result is. (`column` may be beyond the last.)
  Val wanted(const Piece &p, Val column) {
    return head ? writesLogits(k, k.operand(1), p.first + min(column, p.count - 1))
                : k.constant(k.i1(), 1);
  }

  // With an approximate reciprocal, one unit in the last place off: bf16 does not tell.
  Val silu(Val x) {
    Val power = k.exp2(x * -std::numbers::log2e) + 1;
    return x * k.ptx("rcp.approx.ftz.f32 $0, $1;", k.f32(), {power}, "=f,f", /*effects=*/false)[0];
  }

  // Rows g are gates, rows g + 8 ups of the same channel. Neighbouring channels' lanes exchange
  // tokens, so that each writes two channels of one token.
  void writeHidden(const Piece &p, Val strip, Val column, ArrayRef<Val> sums) {
    Val channel = k.shiftRight(k.lane(), 2), even = eq(channel & 1, 0);
    auto product = [&](int64_t n) {
      Val gate = sums[n], up = sums[2 + n];
      if (s.experts) {
        // The router's score scales the expert's input, and so the sums before SiLU.
        Val token = tokenIn(p, min(column + n, p.count - 1));
        Val score = select(p.routed, k.load(k.offset(scores, token * 4), k.f32()), k.f32(1));
        gate = gate * score;
        up = up * score;
      }
      // Channels of the padding: the piece has no weights for them.
      return select(lt(strip, stripCount), silu(gate) * up, k.f32(0));
    };
    Val first = product(0), second = product(1);
    Val other = k.shuffleXor(select(even, second, first), 4);
    Val pair = k.pack(Half::BF16, select(even, first, other), select(even, other, second));
    Val mine = column + select(even, k.i32(0), k.i32(1));
    k.ifThen(lt(mine, p.count), [&] {
      Val at = tokenIn(p, mine);
      if (s.experts)
        at = at + select(p.routed, k.tokens(), k.i32(0));
      Ptr to = out + k.convert(at, k.i64()) * (padded(s.outputs) * 2);
      k.store(k.offset(to, strip * 16 + (channel - (channel & 1)) * 2), pair);
    });
  }

  CudaKernel &k;
  const Shape s;
  const CudaSpec &spec;
  // Of codes, how a strip lies in memory.
  const std::optional<CodeStrip> layout =
      s.format.quantized() ? std::optional(codeStrip(s.format, s.inputs)) : std::nullopt;
  const int64_t groupsPerStage = layout ? layout->groupsPerBlock : 1;
  // Small tiles are bound by the weights, and narrower than what wgmma is good at; groups of less
  // than a stage cut its products too short.
  const bool wgmma = k.target.wgmma && spec.tile >= 128 && groupsPerStage == 1;
  // Sums of a group beside those of all, and codes of the next stage, take registers.
  const int64_t most = !layout                        ? (wgmma ? 256 : 128)
                       : !wgmma                       ? 64
                       : bitsOf(s.format.element) > 4 ? 96
                                                      : 128;
  const int64_t tile = std::min(spec.tile, most);

  // Operands, in the order of README.md.
  const bool gateUp = s.kind == Kind::GateUp, lists = s.experts != 0;
  const bool head = s.kind == Kind::Head;
  Ptr x = k.operand(0);
  Ptr scores = gateUp && lists ? k.operand(1) : Ptr{};
  Ptr order = lists ? k.operand(gateUp ? 2 : 1) : Ptr{};
  Ptr offsets = lists ? k.operand(gateUp ? 3 : 2) : Ptr{};
  // The weight, or the shared expert's, and the routed experts'.
  Ptr weight = k.operand(head ? 2 : operandsOf(spec) - (lists ? 3 : 2));
  Ptr routedWeight = lists ? k.operand(operandsOf(spec) - 2) : Ptr{};
  Ptr out = k.operand(head ? 3 : operandsOf(spec) - 1);

  const int64_t columns = padded(s.inputs), kStages = columns / kStageColumns;
  const int64_t stagesPerPiece = kStages * (s.kind == Kind::Down && lists ? 2 : 1);
  const int64_t stripCount = divideCeil(s.outputs, gateUp ? kStripRows / 2 : kStripRows);
  const int64_t rowTiles = divideCeil(stripCount, kStrips);
  std::optional<Codes> codes =
      layout ? std::optional<Codes>(std::in_place, k, s.format, *layout) : std::nullopt;
  const int64_t stripBytes = layout ? layout->bytes() : columns / 16 * kFragmentBytes;
  const int64_t matrixBytes = stripCount * stripBytes;
  // In a stage, of a strip and of all.
  const int64_t headBytes = layout ? layout->headBytes : 0;
  const int64_t stripStage =
      headBytes + (layout ? layout->tileBytes : kStageColumns / 16 * kFragmentBytes);
  const int64_t weightBytes = llvm::alignTo(kStrips * stripStage, 1024);

  // Most of what a block may have; on sm_90 the rest is left to the cache.
  const int64_t stageBytes = weightBytes + tile * kStageColumns * 2;
  const int64_t room = k.target.bulkCopies ? 200 * 1024 : 163 * 1024 - 2560;
  const int64_t stages = std::min<int64_t>(8, room / stageBytes);
  Ptr memory = k.shared(stages * stageBytes, 1024);
  Ptr full = k.mbarriers(stages), empty = k.mbarriers(stages);
  ExpertTiles groups{k, s.experts, tile};
  Val routedTiles{};
  std::optional<BestLogits> best; // of the head
};

} // namespace

void emitTiledLinear(CudaKernel &k, const CudaSpec &spec) {
  k.threads = 32 * (kConsumerWarps + kProducerWarps);
  TiledLinear(k, spec).run();
}

} // namespace moe::codegen
