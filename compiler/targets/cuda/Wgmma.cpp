// Products of a warpgroup as inline PTX: there is no op whose first operand is in registers, and
// none whose wait names the accumulators.
#include "compiler/targets/cuda/Wgmma.h"

using namespace mlir;

namespace moe::codegen {

// The constraints of n results, in the registers of the first n operands if there are any, and of m
// integers.
static std::string constraints(int64_t n, bool tied, int64_t m) {
  std::string text;
  for (int64_t i = 0; i < n; ++i)
    text += "=f,";
  for (int64_t i = 0; tied && i < n; ++i)
    text += std::to_string(i) + ",";
  for (int64_t i = 0; i < m; ++i)
    text += "r,";
  return text;
}

static std::string list(int64_t first, int64_t count) {
  std::string text = "{";
  for (int64_t i = 0; i < count; ++i)
    text += (i ? ", $" : "$") + std::to_string(first + i);
  return text + "}";
}

// The descriptor of the PTX manual: address, leading and stride in 16 bytes, the kind of swizzle.
static Val descriptorOf(CudaKernel &k, const SharedOperand &b) {
  int64_t swizzle = b.rowBytes == 128 ? 1 : b.rowBytes == 64 ? 2 : 3;
  // What K or N beyond a row is in: steps and panels have addresses of their own if it is K.
  int64_t leading = b.byColumn ? 16 : b.panel, stride = b.rowBytes * 8;
  Val address = k.shiftRight(k.addressOf(b.start), 4);
  return k.val(arith::ExtUIOp::create(k, k.i64(), address.value)) |
         k.i64(swizzle << 62 | stride / 16 << 32 | leading / 16 << 16);
}

SmallVector<Val> beginWgmma(CudaKernel &k, Half type, ArrayRef<Val> sums, int64_t columns,
                            ArrayRef<Val> a, const SharedOperand &b) {
  int64_t n = columns / 2, given = sums.size();
  std::string halves = type == Half::BF16 ? ".bf16.bf16 " : ".f16.f16 ";
  std::string start = "$" + std::to_string(n + given + a.size()), products;
  // One text, and descriptors first: ptxas makes products wait for each other where it finds
  // anything between them.
  std::string text = "{ .reg .pred add, new; .reg .b64 at<" + std::to_string(b.steps.size()) +
                     ">; setp.eq.b32 add, 0, 0; setp.ne.b32 new, 0, 0;\n";
  for (auto [i, step] : llvm::enumerate(b.steps)) {
    std::string at = "at" + std::to_string(i);
    text += "add.s64 " + at + ", " + start + ", " + std::to_string(step / 16) + ";\n";
    products += "wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) + "k16.f32" + halves +
                list(0, n) + ", " + list(n + given + 4 * i, 4) + ", " + at +
                (i || given ? ", add" : ", new") + ", 1, 1, " + (b.byColumn ? "0" : "1") + ";\n";
  }
  text += "wgmma.fence.sync.aligned;\n" + products + "wgmma.commit_group.sync.aligned; }";
  SmallVector<Val> operands(sums);
  operands.append(a.begin(), a.end());
  operands.push_back(descriptorOf(k, b));
  return k.ptx(text, SmallVector<Type>(n, k.f32()), operands,
               constraints(n, given, a.size()) + "l,~{memory}");
}

// Sums pass through, as they are there only now, and the first operand is named so that its
// registers are not used for something else before.
SmallVector<Val> awaitWgmma(CudaKernel &k, ArrayRef<Val> sums, ArrayRef<Val> a, int64_t inFlight) {
  SmallVector<Val> operands(sums);
  operands.append(a.begin(), a.end());
  return k.ptx("wgmma.wait_group.sync.aligned " + std::to_string(inFlight) + ";",
               SmallVector<Type>(sums.size(), k.f32()), operands,
               constraints(sums.size(), true, a.size()) + "~{memory}");
}

} // namespace moe::codegen
