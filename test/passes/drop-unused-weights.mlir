// RUN: moe-opt %s --moe-drop-unused-weights | FileCheck %s

// CHECK: moe.weight @used
// CHECK-NOT: @unused
moe.weight @used : tensor<8xf32> from [#moe.source<"a", [0], [8]>]
moe.weight @unused : tensor<8xf32> from [#moe.source<"b", [0], [8]>]
func.func @f() -> tensor<8xf32> {
  %w = moe.load_weight @used : tensor<8xf32>
  return %w : tensor<8xf32>
}
