// RUN: moe-opt %s --moe-fuse-head | FileCheck %s

moe.weight @norm : tensor<8xf32> from [#moe.source<"n", [0], [8]>]
moe.weight @head : tensor<32x8xf32> from [#moe.source<"h", [0, 0], [32, 8]>]

// CHECK-LABEL: func.func @fires
// CHECK-SAME: (%[[H:.*]]: tensor<?x8xf32>, %[[ROWS:.*]]: tensor<?xi32>)
// CHECK-NEXT: %[[NORM:.*]] = moe.load_weight @norm
// CHECK-NEXT: %[[W:.*]] = moe.load_weight @head
// CHECK-NEXT: %[[L:.*]] = moe.head %[[H]], %[[ROWS]], %[[NORM]], %[[W]] eps 9.99999974E-6
// CHECK-NEXT: return %[[L]]
func.func @fires(%h: tensor<?x8xf32>, %rows: tensor<?xi32>) -> tensor<?x32xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %w = moe.load_weight @head : tensor<32x8xf32>
  %r = moe.select_rows %h, %rows : tensor<?x8xf32>, tensor<?xi32> -> tensor<?x8xf32>
  %n = moe.rms_norm %r, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %l = moe.linear %n, %w : tensor<?x8xf32>, tensor<32x8xf32> -> tensor<?x32xf32>
  return %l : tensor<?x32xf32>
}

// The last norm is wanted too, as embeddings of the text.
// CHECK-LABEL: func.func @norm_used
// CHECK-SAME: (%[[H:.*]]: tensor<?x8xf32>, %[[ROWS:.*]]: tensor<?xi32>)
// CHECK-NEXT: %[[NORM:.*]] = moe.load_weight @norm
// CHECK-NEXT: %[[W:.*]] = moe.load_weight @head
// CHECK-NEXT: %[[N:.*]] = moe.final_norm %[[H]], %[[ROWS]], %[[NORM]] eps 9.99999974E-6
// CHECK-NEXT: %[[L:.*]] = moe.head %[[H]], %[[ROWS]], %[[NORM]], %[[W]] eps 9.99999974E-6
// CHECK-NEXT: return %[[L]], %[[N]]
func.func @norm_used(%h: tensor<?x8xf32>, %rows: tensor<?xi32>)
    -> (tensor<?x32xf32>, tensor<?x8xf32>) {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %w = moe.load_weight @head : tensor<32x8xf32>
  %r = moe.select_rows %h, %rows : tensor<?x8xf32>, tensor<?xi32> -> tensor<?x8xf32>
  %n = moe.rms_norm %r, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %l = moe.linear %n, %w : tensor<?x8xf32>, tensor<32x8xf32> -> tensor<?x32xf32>
  return %l, %n : tensor<?x32xf32>, tensor<?x8xf32>
}

// The rows are wanted before the norm.
// CHECK-LABEL: func.func @rows_used
// CHECK: moe.select_rows
// CHECK-NEXT: moe.rms_norm
// CHECK-NEXT: moe.linear
func.func @rows_used(%h: tensor<?x8xf32>, %rows: tensor<?xi32>)
    -> (tensor<?x32xf32>, tensor<?x8xf32>) {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %w = moe.load_weight @head : tensor<32x8xf32>
  %r = moe.select_rows %h, %rows : tensor<?x8xf32>, tensor<?xi32> -> tensor<?x8xf32>
  %n = moe.rms_norm %r, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %l = moe.linear %n, %w : tensor<?x8xf32>, tensor<32x8xf32> -> tensor<?x32xf32>
  return %l, %r : tensor<?x32xf32>, tensor<?x8xf32>
}
