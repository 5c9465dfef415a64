// Down projections of the shared and the routed experts, added to the residual stream. Rows are
// gathered by index as the product reads them, so nothing is permuted in memory.
#include "compiler/kernels/router/Cpu.h"
#include "compiler/kernels/down/Down.h"

namespace moe::codegen {

void CpuDown::emit(CpuKernel &k) const {
  const CpuDown &s = *this;
  Ptr hidden = k.operand(Operand::Hidden), shared = k.operand(Operand::SharedWeight),
      routed = s.experts ? k.operand(Operand::RoutedWeight) : Ptr{}, h = k.operand(Operand::H);
  int64_t panels = padded(s.hidden) / kPanel;
  const ActivationRow sharedRow{s.shared, s.width}, routedRow{s.routed, s.width};
  Ptr all = k.identity();
  SortedChoices choices{k, s.experts, s.k};
  if (s.experts)
    choices.sort(k.operand(Operand::Experts));
  // A worker's panels of one matrix lie together, and it reads them as one stream.
  auto group = [&](Val first, Val last, const ActivationRow &row, Ptr x, Ptr matrix, Val count,
                   Ptr ids, Ptr tokens) {
    const int64_t tile = k.tileTokens(row.weight);
    k.loop(first, last, 1, [&](Val panel) {
      k.loop(k.i64(0), count, tile, [&](Val i) {
        Val n = min(count - i, k.i64(tile));
        k.product(row.weight, {x, row.bytes(), ids + i * 4}, n,
                  matrix + panel * panelBytes(row.weight, s.width), s.width,
                  {h + panel * (kPanel * 4), padded(s.hidden) * 4, tokens + i * 4}, /*add=*/true,
                  k.turn(i, count, tile));
      });
    });
  };
  k.parts(k.i64(panels), k.claims(weightBytes() / panels), [&](Val first, Val last) {
    group(first, last, sharedRow, hidden, shared, k.tokens, all, all);
    if (!s.experts)
      return;
    k.loop(0, s.experts, 1, [&](Val e) {
      Val begin = choices.begin(e), rows = choices.end(e) - begin;
      k.ifThen(gt(rows, 0), [&] {
        group(first, last, routedRow, hidden + k.tokens * sharedRow.bytes(),
              routed + e * (panels * panelBytes(s.routed, s.width)), rows,
              choices.sorted + begin * 4, choices.tokens + begin * 4);
      });
    });
  });
}

} // namespace moe::codegen
