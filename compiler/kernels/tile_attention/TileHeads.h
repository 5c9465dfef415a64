// The heads of a vision tower, and how their queries, keys and values lie between its kernels.
#ifndef MOE_COMPILER_KERNELS_TILE_ATTENTION_TILEHEADS_H
#define MOE_COMPILER_KERNELS_TILE_ATTENTION_TILEHEADS_H

#include "compiler/kernels/ActivationRow.h"

namespace moe::codegen {

// All rows of a tile see each other, so that a head's keys are panels of 64 rows by the head's
// channels, and its values panels of 64 channels by the rows: both products of attention are those
// of linears. By tile, then head:
//
//   queries = rows of `queryBytes`      keys, values = panels (runtime/weights/Layout.h)
//
// The rows that pad a panel of keys, and the channels that pad one of values, may be anything: they
// are lanes of their own, which nobody reads. Where two rows make a unit of a panel of values, and
// their number is odd, one of zeros follows them.
struct TileHeads {
  int64_t heads, headDim, rows;
  Storage storage; // F32 or BF16

  int64_t channels() const { return heads * headDim; }
  WeightFormat format() const { return {.element = storage}; }
  // Of a query: what vectors and matrices may read at once divides it.
  int64_t queryBytes() const { return llvm::alignTo(headDim * bytesOf(storage), 64); }
  int64_t keyPanelBytes() const { return panelBytes(format(), headDim); }
  int64_t valuePanelBytes() const { return panelBytes(format(), rows); }
  int64_t keyPanels() const { return llvm::divideCeil(rows, kPanel); }
  int64_t valuePanels() const { return llvm::divideCeil(headDim, kPanel); }
  // Of a tile.
  int64_t queriesBytes() const { return heads * rows * queryBytes(); }
  int64_t keysBytes() const { return heads * keyPanels() * keyPanelBytes(); }
  int64_t valuesBytes() const { return heads * valuePanels() * valuePanelBytes(); }
};

// As names of kernels have it: "bf16_16x88_tile577".
std::string nameOf(const TileHeads &heads);

} // namespace moe::codegen

#endif
