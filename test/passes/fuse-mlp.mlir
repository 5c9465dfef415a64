// RUN: moe-opt %s --moe-fuse-mlp --moe-drop-unused-weights --split-input-file | FileCheck %s

// CHECK: moe.weight @mlp.gate_up : tensor<32x8xbf16> from [#moe.source<"g", [0, 0], [16, 8]>, #moe.source<"u", [0, 0], [16, 8]>]
// CHECK-NEXT: moe.weight @mlp.down
// CHECK-LABEL: func.func @fires
// CHECK-SAME: (%[[H:.*]]: tensor<?x8xf32>)
// CHECK-NEXT: %[[NORM:.*]] = moe.load_weight @norm
// CHECK-NEXT: %[[DOWN:.*]] = moe.load_weight @mlp.down
// CHECK-NEXT: %[[GATE_UP:.*]] = moe.load_weight @mlp.gate_up
// CHECK-NEXT: %[[Y:.*]] = moe.mlp_block %[[H]], %[[NORM]], %[[GATE_UP]], %[[DOWN]] eps
// CHECK-NEXT: return %[[Y]]
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @mlp.gate : tensor<16x8xbf16> from [#moe.source<"g", [0, 0], [16, 8]>]
moe.weight @mlp.up : tensor<16x8xbf16> from [#moe.source<"u", [0, 0], [16, 8]>]
moe.weight @mlp.down : tensor<8x16xbf16> from [#moe.source<"d", [0, 0], [8, 16]>]
func.func @fires(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xbf16>
  %wg = moe.load_weight @mlp.gate : tensor<16x8xbf16>
  %wu = moe.load_weight @mlp.up : tensor<16x8xbf16>
  %wd = moe.load_weight @mlp.down : tensor<8x16xbf16>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>
  %g = moe.linear %n, %wg : tensor<?x8xf32>, tensor<16x8xbf16> -> tensor<?x16xf32>
  %u = moe.linear %n, %wu : tensor<?x8xf32>, tensor<16x8xbf16> -> tensor<?x16xf32>
  %s = moe.swiglu %g, %u : tensor<?x16xf32>
  %d = moe.linear %s, %wd : tensor<?x16xf32>, tensor<8x16xbf16> -> tensor<?x8xf32>
  %y = moe.add %h, %d : tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @norm : tensor<8xf32> from [#moe.source<"n", [0], [8]>]
moe.weight @gate : tensor<16x8xf32> from [#moe.source<"g", [0, 0], [16, 8]>]
moe.weight @up : tensor<16x8xf32> from [#moe.source<"u", [0, 0], [16, 8]>]
moe.weight @down : tensor<8x16xf32> from [#moe.source<"d", [0, 0], [8, 16]>]

// What is added is not what the norm took.
// CHECK-LABEL: func.func @other_residual
// CHECK-NOT: moe.mlp_block
// CHECK: moe.add
func.func @other_residual(%h: tensor<?x8xf32>, %r: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wg = moe.load_weight @gate : tensor<16x8xf32>
  %wu = moe.load_weight @up : tensor<16x8xf32>
  %wd = moe.load_weight @down : tensor<8x16xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %g = moe.linear %n, %wg : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  %u = moe.linear %n, %wu : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  %s = moe.swiglu %g, %u : tensor<?x16xf32>
  %d = moe.linear %s, %wd : tensor<?x16xf32>, tensor<8x16xf32> -> tensor<?x8xf32>
  %y = moe.add %r, %d : tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// The gate has another user.
// CHECK-LABEL: func.func @gate_used
// CHECK-NOT: moe.mlp_block
// CHECK: moe.add
func.func @gate_used(%h: tensor<?x8xf32>) -> (tensor<?x8xf32>, tensor<?x16xf32>) {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wg = moe.load_weight @gate : tensor<16x8xf32>
  %wu = moe.load_weight @up : tensor<16x8xf32>
  %wd = moe.load_weight @down : tensor<8x16xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %g = moe.linear %n, %wg : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  %u = moe.linear %n, %wu : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  %s = moe.swiglu %g, %u : tensor<?x16xf32>
  %d = moe.linear %s, %wd : tensor<?x16xf32>, tensor<8x16xf32> -> tensor<?x8xf32>
  %y = moe.add %h, %d : tensor<?x8xf32>
  return %y, %g : tensor<?x8xf32>, tensor<?x16xf32>
}
