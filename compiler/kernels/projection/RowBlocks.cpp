// Walks blocks of rows and groups of panels.
#include "compiler/kernels/projection/RowBlocks.h"

namespace moe::codegen {

// Columns of a panel that are multiplied with all rows of a block before the next ones, so that
// they stay in the second-level cache meanwhile. All that the order of a sum depends on.
static int64_t columnsAtOnce(const ActivationRow &row) {
  constexpr int64_t most = 1536;
  const int64_t unit = row.quantized() ? row.weight.group : kPanel;
  const int64_t parts = llvm::divideCeil(row.columns, most);
  return std::min(row.columns, int64_t(llvm::alignTo(llvm::divideCeil(row.columns, parts), unit)));
}

RowBlocks::RowBlocks(CpuKernel &k, const ActivationRow &row, int64_t outputs, int64_t panels)
    : k(k), row(row), allPanels(llvm::divideCeil(outputs, kPanel)), groupPanels(panels) {
  k.loop(0, blockRows, 1, [&](Val i) { (ids + i * 4).store(k.convert(i, k.i32())); });
}

void RowBlocks::multiply(Ptr x, Val count, Ptr panel, Ptr to, const Turn &turn) {
  const WeightFormat &format = row.weight;
  const int64_t tile = k.tileTokens(format), part = columnsAtOnce(row);
  for (int64_t c = 0; c < row.columns; c += part) {
    const int64_t columns = std::min(part, row.columns - c);
    // Both count whole groups, or units of columns.
    const int64_t before = c ? panelBytes(format, c) : 0;
    const int64_t xBytes =
        row.quantized() ? c / format.group * row.groupBytes() : c * bytesOf(row.storage());
    k.loop(k.i64(0), count, tile, [&](Val t) {
      std::optional<Turn> ahead = turn;
      if (part < row.columns)
        ahead = k.turn(t, count, tile);
      else
        ahead->index = turn.index + t / tile;
      k.product(format, {x + t * row.bytes() + xBytes, row.bytes(), ids},
                min(count - t, k.i64(tile)), panel + before, columns,
                {to + t * (width() * 4), width() * 4, ids},
                /*add=*/c > 0, ahead);
    });
  }
}

void RowBlocks::run(Ptr x, Val rows, Ptr weight,
                    llvm::function_ref<void(Val, Val, Val, Ptr)> finish) {
  const int64_t tile = k.tileTokens(row.weight), bytes = panelBytes(row.weight, row.columns);
  Val blocks = ceilDiv(rows, blockRows);
  k.parts(blocks * groups(), Claims{k.operand(Operand::Counters), 1}, [&](Val first, Val last) {
    k.loop(first, last, 1, [&](Val unit) {
      Val batch = unit / (together * groups()) * together, rest = unit % k.i64(together * groups());
      Val inBatch = min(blocks - batch, k.i64(together));
      Val group = rest / inBatch, block = batch + rest % inBatch;
      Val row0 = block * blockRows, count = min(rows - row0, k.i64(blockRows));
      Val panel = group * groupPanels, panels = min(k.i64(allPanels) - panel, k.i64(groupPanels));
      k.loop(k.i64(0), panels, 1, [&](Val p) {
        // Alone a panel stays while all blocks take it; of several each is followed by the next.
        Turn turn{k.i64(0), ceilDiv(count, tile)};
        if (groupPanels == 1)
          turn = {(block - batch) * (blockRows / tile), inBatch * (blockRows / tile)};
        multiply(x + row0 * row.bytes(), count, weight + (panel + p) * bytes,
                 sums + p * (kPanel * 4), turn);
      });
      finish(row0, count, group, sums);
    });
  });
}

Ptr paddedCopy(CpuKernel &k, Ptr from, int64_t n, int64_t width) {
  const int64_t all = llvm::alignTo(n, width);
  Ptr to = k.scratch(all * 4);
  k.channels(n, [&](Val c, int64_t lanes) {
    (to + c * 4).store((from + c * 4).load(k.vec(lanes, k.f32())));
  });
  k.loop(n, all, 1, [&](Val c) { (to + c * 4).store(k.f32(0)); });
  return to;
}

} // namespace moe::codegen
