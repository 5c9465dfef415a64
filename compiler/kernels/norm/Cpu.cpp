// The norm of programs of many tokens as a kernel of its own; and how the others' kernels norm.
#include "compiler/kernels/norm/Cpu.h"
#include "compiler/targets/cpu/Kernels.h"

namespace moe::codegen {

void CpuNormRows::run(Val first, Val last) {
  Ptr routedRows = oneRow ? x : x + k.tokens * sharedRow.bytes();
  k.loop(first, last, 1, [&](Val t) {
    k.normRow(h + t * (width * 4), norm, hidden, eps, Storage::F32, row);
    k.activationRow(row, sharedRow, x + t * sharedRow.bytes());
    if (!oneRow)
      k.activationRow(row, routedRow, routedRows + t * routedRow.bytes());
    router.run(t, row);
  });
}

void emitNormRows(CpuKernel &k, const NormRowsSpec &s) {
  bool routes = s.experts;
  CpuNormRows rows{k,
                   s.hidden,
                   s.experts,
                   s.k,
                   s.shared,
                   s.routed,
                   s.eps,
                   k.operand(0),
                   k.operand(1),
                   routes ? k.operand(2) : Ptr{},
                   k.operand(routes ? 3 : 2),
                   routes ? k.operand(4) : Ptr{},
                   routes ? k.operand(5) : Ptr{}};
  auto [first, last] = k.share(k.tokens);
  rows.run(first, last);
}

} // namespace moe::codegen
