// The norm of programs of many tokens as a kernel of its own; and how the others' kernels norm.
#include "compiler/kernels/norm/Cpu.h"
#include "compiler/kernels/norm/Norm.h"

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

void CpuNorm::emit(CpuKernel &k) const {
  auto ofRouter = [&](Operand operand) { return experts ? k.operand(operand) : Ptr{}; };
  CpuNormRows rows{k,
                   hidden,
                   experts,
                   this->k,
                   shared,
                   routed,
                   eps,
                   k.operand(Operand::H),
                   k.operand(Operand::Norm),
                   ofRouter(Operand::Router),
                   k.operand(Operand::X),
                   ofRouter(Operand::Experts),
                   ofRouter(Operand::Scores)};
  auto [first, last] = k.share(k.tokens);
  rows.run(first, last);
}

} // namespace moe::codegen
