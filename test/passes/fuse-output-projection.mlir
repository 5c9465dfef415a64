// RUN: moe-opt %s --moe-fuse-output-projection | FileCheck %s

moe.weight @o : tensor<8x8xf32> from [#moe.source<"o", [0, 0], [8, 8]>]

// CHECK-LABEL: func.func @fires
// CHECK-SAME: (%[[X:.*]]: tensor<?x8xf32>, %[[H:.*]]: tensor<?x8xf32>)
// CHECK-NEXT: %[[W:.*]] = moe.load_weight
// CHECK-NEXT: %[[A:.*]] = moe.linear_residual %[[X]], %[[W]], %[[H]]
// CHECK-NEXT: %[[B:.*]] = moe.linear_residual %[[X]], %[[W]], %[[A]]
// CHECK-NEXT: return %[[B]]
func.func @fires(%x: tensor<?x8xf32>, %h: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %w = moe.load_weight @o : tensor<8x8xf32>
  %y = moe.linear %x, %w : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %a = moe.add %h, %y : tensor<?x8xf32>
  %z = moe.linear %x, %w : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %b = moe.add %z, %a : tensor<?x8xf32>
  return %b : tensor<?x8xf32>
}

// The projection is wanted by itself too.
// CHECK-LABEL: func.func @other_user
// CHECK: moe.linear %
// CHECK-NEXT: moe.add
func.func @other_user(%x: tensor<?x8xf32>, %h: tensor<?x8xf32>)
    -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  %w = moe.load_weight @o : tensor<8x8xf32>
  %y = moe.linear %x, %w : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %a = moe.add %h, %y : tensor<?x8xf32>
  return %a, %y : tensor<?x8xf32>, tensor<?x8xf32>
}

// CHECK-LABEL: func.func @twice
// CHECK: moe.linear %
// CHECK-NEXT: moe.add
func.func @twice(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %w = moe.load_weight @o : tensor<8x8xf32>
  %y = moe.linear %x, %w : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %a = moe.add %y, %y : tensor<?x8xf32>
  return %a : tensor<?x8xf32>
}
