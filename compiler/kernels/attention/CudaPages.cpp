// Streams pages.
#include "compiler/kernels/attention/CudaPages.h"
#include "compiler/kernels/attention/AttentionLayout.h"

using namespace mlir;

namespace moe::codegen {

// Rows [begin, end) of a tile become zero; by all lanes.
static void clearRows(CudaKernel &k, TileLayout layout, Ptr tile, Val begin, Val end) {
  int64_t row = layout.rowBytes();
  Val zero = k.constant(k.vec(4, k.i32()), 0);
  k.stride(begin * row + k.lane() * 16, end * row, k.i32(512), [&](Val at) {
    for (int64_t panel = 0; panel < layout.panels(); ++panel) {
      Ptr to = k.offset(tile, at) + panel * layout.panelBytes();
      if (k.target.bulkCopies)
        k.store(to, zero);
      else // as the copies beside them, so that one arrival speaks for both
        k.copy16(to, k.operand(Operand::Positions), k.constant(k.i1(), 0));
    }
  });
}

// Brings rows [begin, end) of a tile into a stage.
static void fill(CudaKernel &k, Ring &ring, TileLayout layout, Val stage, Ptr from, Val begin,
                 Val end, bool clear) {
  Ptr place = ring.acquire(stage);
  if (clear)
    k.ifThen(lt(end - begin, k.i32(kPageTokens)), [&] {
      clearRows(k, layout, place, k.i32(0), begin);
      clearRows(k, layout, place, end, k.i32(kPageTokens));
      if (k.target.bulkCopies) // which will write to these rows in the next round
        k.ptx("fence.proxy.async.shared::cta;", {}, {}, "~{memory}");
      k.syncWarp();
    });
  Val skipped = begin * layout.rowBytes(), bytes = (end - begin) * layout.rowBytes();
  ring.begin(stage, bytes * layout.panels());
  auto copy = [&](int64_t panel, Val bytes) {
    int64_t at = panel * layout.panelBytes();
    ring.copy(stage, k.offset(place, skipped) + at, k.offset(from, skipped) + at, bytes);
  };
  if (layout.panels() == 1)
    copy(0, bytes);
  else
    k.ifElse(
        eq(end - begin, kPageTokens), [&] { copy(0, k.i32(layout.bytes())); },
        [&] {
          for (int64_t panel = 0; panel < layout.panels(); ++panel)
            copy(panel, bytes);
        });
  ring.end(stage);
}

Val streamSpan(CudaKernel &k, Ring &ring, const CacheSpec &cache, Val stage, Ptr heads,
               Ptr tableRow, const Span &span, bool clearKeys) {
  TileLayout layout{cache.headDim};
  k.stride(k.i32(0), span.pages, k.i32(32), [&](Val some) {
    // A lane looks up one page of 32.
    Val mine = span.firstPage + min(some + k.lane(), span.pages - 1);
    Val entry = k.load(k.offset(tableRow, mine * 4), k.i32(), true);
    k.stride(some, min(some + 32, span.pages), k.i32(1), [&](Val tile) {
      Ptr page = heads + k.convert(k.shuffle(entry, tile - some), k.i64()) * cache.pageBytes;
      Val first = (span.firstPage + tile) * kPageTokens;
      Val begin = max(span.low - first, k.i32(0));
      Val end = min(span.high - first, k.i32(kPageTokens));
      fill(k, ring, layout, stage + tile * 2, page, begin, end, clearKeys);
      fill(k, ring, layout, stage + tile * 2 + 1, page + layout.bytes(), begin, end,
           /*clear=*/true);
    });
  });
  return stage + span.pages * 2;
}

} // namespace moe::codegen
