// Finds the pieces of work of the products of larger steps.
#include "compiler/targets/cuda/TiledPieces.h"

using namespace mlir;

namespace moe::codegen {

TiledStrips::TiledStrips(CudaKernel &k, const WeightFormat &format, int64_t inputs, bool wgmma) {
  if (!format.quantized()) {
    bytes = padded(inputs) / 16 * kFragmentBytes;
    stageBytes = kStageColumns / 16 * kFragmentBytes;
    mostTokens = wgmma ? 256 : 128;
    return;
  }
  layout = codeStrip(format, inputs);
  codes.emplace(k, format, *layout);
  wholeRows = codes->wholeRows();
  bytes = layout->bytes();
  columnsAt = wholeRows ? layout->headBytes : 0;
  headBytes = codes->headBytes();
  stageBytes = headBytes + layout->tileBytes;
  stageGroups = layout->groupsPerBlock;
  // Sums of a group beside those of all, and codes of the next stage, take registers.
  if (!wholeRows)
    mostTokens = !wgmma ? 64 : bitsOf(format.element) > 4 ? 96 : 128;
}

// Small tiles are bound by the weights, and narrower than what wgmma is good at; groups of less
// than a stage cut its products too short.
static bool usesWgmma(const CudaTarget &target, const TiledShape &s, int64_t tile) {
  auto whole = [](const WeightFormat &f) { return !f.quantized() || f.group >= kStageColumns; };
  return target.wgmma && tile >= 128 && whole(s.format) && whole(s.routed);
}

TiledPieces::TiledPieces(CudaKernel &k, const TiledShape &shape, int64_t tile,
                         const Operands &operands)
    : shape(shape), wgmma(usesWgmma(k.target, shape, tile)),
      shared(k, shape.format, shape.inputs, wgmma), routed(k, shape.routed, shape.inputs, wgmma),
      tile(std::min({tile, shared.mostTokens, routed.mostTokens})), k(k), operands(operands),
      groups{k, shape.experts, this->tile} {}

// Tile `index` of the `tiles` that n tokens from place `begin` on are cut into, of equal size but
// for the last.
Piece TiledPieces::tileOf(Val rowTile, Val matrix, Val begin, Val n, Val index, Val tiles,
                          Val routed) {
  Val size = ceilDiv((n + tiles - 1) / tiles, 16) * 16;
  return {rowTile * kPieceStrips, begin + index * size, min(n - index * size, size), matrix,
          routed};
}

Piece TiledPieces::plainPiece(Val item) {
  Val tiles = plainTiles();
  return tileOf(item / tiles, k.i32(0), k.i32(0), allTokens(), item % tiles, tiles,
                k.constant(k.i1(), 0));
}

Piece TiledPieces::routedPiece(Val item) {
  // The tile that it is, of all groups'; or, where experts come one after the other, one that is
  // of the same group.
  const bool joined = shape.joinsK;
  Val tileOfAll = joined ? item % routedTiles : item / rowTiles();
  Val e = groups.expertOf(tileOfAll);
  Val before = groups.before(e), tiles = groups.before(e + 1) - before;
  Val inGroup = joined ? tileOfAll - before : item - before * rowTiles();
  Val begin = groups.begin(e), n = groups.begin(e + 1) - begin;
  return tileOf(joined ? item / routedTiles : inGroup / tiles, e, begin, n,
                joined ? inGroup : inGroup % tiles, tiles, k.constant(k.i1(), 1));
}

Piece TiledPieces::pieceOf(Val item) {
  if (!shape.experts)
    return plainPiece(item);
  if (shape.joinsK)
    return routedPiece(item);
  auto values = [](const Piece &p) {
    return SmallVector<Val>{p.strip, p.first, p.count, p.matrix};
  };
  Val routed = ge(item, plainPieces());
  auto p = k.choose(
      routed, [&] { return values(routedPiece(item - plainPieces())); },
      [&] { return values(plainPiece(item)); });
  return {p[0], p[1], p[2], p[3], routed};
}

Val TiledPieces::eachPiece(function_ref<void(const Piece &, Val)> body) {
  return k.stride(k.block(), pieces(), k.blocks(), {k.i32(0)}, [&](Val item, ArrayRef<Val> stage) {
    body(pieceOf(item), stage[0]);
    return SmallVector<Val>{stage[0] + stagesPerPiece()};
  })[0];
}

void TiledPieces::eachRun(const Piece &p, function_ref<void(const Run &)> body) {
  const int64_t stages = shape.stages();
  const bool same = shape.format == shape.routed;
  const Run ofRouted{&routed, Run::Routed, 0, stages};
  if (!shape.experts)
    return body(plainRun());
  if (shape.joinsK) {
    if (same && !shared.wholeRows)
      return body({&shared, Run::Both, 0, 2 * stages});
    body(plainRun());
    return body({&routed, Run::Routed, stages, stages});
  }
  if (same)
    return body({&shared, Run::Either, 0, stages});
  k.ifElse(p.routed, [&] { body(ofRouted); }, [&] { body(plainRun()); });
}

Val TiledPieces::tokenIn(const Piece &p, Val place) {
  Val at = p.first + place;
  if (!shape.experts)
    return at;
  Val listed = k.load(k.offset(operands.order, at * 4), k.i32());
  return select(p.routed, listed, at);
}

TiledPieces::Weights TiledPieces::weightsOf(const Piece &p, const Run &run, Val strip) {
  Val number = k.convert(p.strip + strip, k.i64());
  auto plain = [&] { return operands.weight + number * shared.bytes; };
  auto expert = [&] {
    Val before = k.convert(p.matrix, k.i64()) * (shape.strips() * routed.bytes);
    return operands.routedWeight + (before + number * routed.bytes);
  };
  switch (run.of) {
  case Run::Shared:
    return {plain(), {}};
  case Run::Routed:
    return {expert(), {}};
  case Run::Either:
    return {either(p.routed, expert(), plain()), {}};
  case Run::Both:
    return {plain(), expert()};
  }
  llvm_unreachable("no such run");
}

std::pair<Val, Val> TiledPieces::columnsOf(const Run &run, Val j) {
  if (run.of != Run::Both)
    return {k.constant(k.i1(), shape.joinsK && run.of == Run::Routed), j};
  Val second = ge(j, shape.stages());
  return {second, j - select(second, k.i32(shape.stages()), k.i32(0))};
}

TiledPieces::Parts TiledPieces::partsAt(const Weights &w, const Run &run, Val j) {
  auto [second, column] = columnsOf(run, j);
  Ptr from = run.of == Run::Both ? either(second, w.second, w.first) : w.first;
  const TiledStrips &strips = *run.strips;
  if (!strips.scalesGroups())
    return {{}, k.offset(from, column * strips.stageBytes) + strips.columnsAt};
  const CodeStrip &layout = *strips.layout;
  Ptr block = k.offset(from, column / layout.tiles() * layout.blockBytes());
  Val tile = column % layout.tiles() * layout.tileBytes + layout.headBytes;
  return {block, k.offset(block, tile)};
}

} // namespace moe::codegen
