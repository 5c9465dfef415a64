// RUN: moe-opt %s --moe-fuse-mlp --moe-drop-unused-weights --split-input-file | FileCheck %s

// The codes of both are those of the whole.
// CHECK: moe.weight @mlp.gate_up : tensor<32x8xbf16> from [#moe.source<"g", [0, 0], [16, 8]>, #moe.source<"u", [0, 0], [16, 8]>] encoded #moe.format<i4 group 4 scale bf16>{{$}}
// CHECK: moe.weight @mlp.down : tensor<8x16xbf16> {{.*}} encoded #moe.format<f8E4M3FN group 16 scale f32>
// CHECK-LABEL: func.func @same
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @mlp.gate : tensor<16x8xbf16> from [#moe.source<"g", [0, 0], [16, 8]>]
    encoded #moe.format<i4 group 4 scale bf16>
moe.weight @mlp.up : tensor<16x8xbf16> from [#moe.source<"u", [0, 0], [16, 8]>]
    encoded #moe.format<i4 group 4 scale bf16>
moe.weight @mlp.down : tensor<8x16xbf16> from [#moe.source<"d", [0, 0], [8, 16]>]
    encoded #moe.format<f8E4M3FN group 16 scale f32>
func.func @same(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
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

// Codes of another format, and elements.
// CHECK: moe.weight @mlp.gate_up : tensor<32x8xbf16> from [#moe.source<"g", [0, 0], [16, 8]>, #moe.source<"u", [0, 0], [16, 8]>]{{$}}
// CHECK: moe.weight @mlp.down
// CHECK-LABEL: func.func @other_group
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @mlp.gate : tensor<16x8xbf16> from [#moe.source<"g", [0, 0], [16, 8]>]
    encoded #moe.format<i4 group 4 scale bf16>
moe.weight @mlp.up : tensor<16x8xbf16> from [#moe.source<"u", [0, 0], [16, 8]>]
    encoded #moe.format<i4 group 8 scale bf16>
moe.weight @mlp.down : tensor<8x16xbf16> from [#moe.source<"d", [0, 0], [8, 16]>]
func.func @other_group(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
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

// CHECK: moe.weight @mlp.gate_up : tensor<32x8xbf16> from [#moe.source<"g", [0, 0], [16, 8]>, #moe.source<"u", [0, 0], [16, 8]>]{{$}}
// CHECK: moe.weight @mlp.down
// CHECK-LABEL: func.func @plain_up
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @mlp.gate : tensor<16x8xbf16> from [#moe.source<"g", [0, 0], [16, 8]>]
    encoded #moe.format<i4 group 4 scale bf16>
moe.weight @mlp.up : tensor<16x8xbf16> from [#moe.source<"u", [0, 0], [16, 8]>]
moe.weight @mlp.down : tensor<8x16xbf16> from [#moe.source<"d", [0, 0], [8, 16]>]
func.func @plain_up(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
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
