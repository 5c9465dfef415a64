// RUN: moe-opt %s | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s

// CHECK-LABEL: @embed
func.func @embed(%tokens: tensor<?xi32>, %table: tensor<4096x256xbf16>, %images: tensor<?x256xf32>,
                 %rows: tensor<?xi32>) -> tensor<?x256xf32> {
  // CHECK: moe.embed %arg0, %arg1 images %arg2, %arg3 : tensor<?x256xf32>, tensor<?xi32>
  // CHECK-SAME: : tensor<?xi32>, tensor<4096x256xbf16> -> tensor<?x256xf32>
  %h = moe.embed %tokens, %table images %images, %rows : tensor<?x256xf32>, tensor<?xi32>
      : tensor<?xi32>, tensor<4096x256xbf16> -> tensor<?x256xf32>
  return %h : tensor<?x256xf32>
}

// CHECK-LABEL: @embedding
func.func @embedding(%tiles: tensor<?x56x56x3xui8>, %class: tensor<588xbf16>,
                     %positions: tensor<17x588xbf16>) -> tensor<?x588xf32> {
  // CHECK: moe.patches %arg0 patch 14 rescale 2.500000e-01 mean [5.000000e-01, -2.000000e+00, 0.000000e+00]
  // CHECK-SAME: std [5.000000e-01, 1.000000e+00, 2.000000e+00] : tensor<?x56x56x3xui8> -> tensor<?x588xf32>
  %x = moe.patches %tiles patch 14 rescale 0.25 mean [0.5, -2.0, 0.0] std [0.5, 1.0, 2.0]
      : tensor<?x56x56x3xui8> -> tensor<?x588xf32>
  // CHECK: moe.append_class %{{.*}}, %arg1 grid 4 : tensor<?x588xf32>, tensor<588xbf16> -> tensor<?x588xf32>
  %y = moe.append_class %x, %class grid 4
      : tensor<?x588xf32>, tensor<588xbf16> -> tensor<?x588xf32>
  // CHECK: moe.add_positions %{{.*}}, %arg2 : tensor<?x588xf32>, tensor<17x588xbf16>
  %z = moe.add_positions %y, %positions : tensor<?x588xf32>, tensor<17x588xbf16>
  return %z : tensor<?x588xf32>
}

// CHECK-LABEL: @layer
func.func @layer(%x: tensor<?x64xf32>, %w: tensor<64xbf16>, %b: tensor<64xf32>,
                 %m: tensor<64x64xbf16>) -> tensor<?x64xf32> {
  // CHECK: moe.layer_norm %arg0, %arg1, %arg2 eps 1.250000e-01 : tensor<?x64xf32>, tensor<64xbf16>, tensor<64xf32>
  %n = moe.layer_norm %x, %w, %b eps 0.125 : tensor<?x64xf32>, tensor<64xbf16>, tensor<64xf32>
  // CHECK: moe.linear_bias %{{.*}}, %arg3, %arg1
  // CHECK-SAME: : tensor<?x64xf32>, tensor<64x64xbf16>, tensor<64xbf16> -> tensor<?x64xf32>
  %l = moe.linear_bias %n, %m, %w
      : tensor<?x64xf32>, tensor<64x64xbf16>, tensor<64xbf16> -> tensor<?x64xf32>
  // CHECK: moe.patch_rope %{{.*}} heads 4 grid 4 theta 1.000000e+04 : tensor<?x64xf32>
  %q = moe.patch_rope %l heads 4 grid 4 theta 1.0e4 : tensor<?x64xf32>
  // CHECK: moe.tile_attention %{{.*}}, %arg0, %{{.*}} heads 4 grid 4 : tensor<?x64xf32>
  %o = moe.tile_attention %q, %x, %l heads 4 grid 4 : tensor<?x64xf32>
  // CHECK: moe.gelu %{{.*}} : tensor<?x64xf32>
  %g = moe.gelu %o : tensor<?x64xf32>
  return %g : tensor<?x64xf32>
}

// CHECK-LABEL: @output
func.func @output(%x: tensor<34x64xf32>) -> tensor<8x256xf32> {
  // CHECK: moe.drop_class %arg0 grid 4 : tensor<34x64xf32> -> tensor<32x64xf32>
  %y = moe.drop_class %x grid 4 : tensor<34x64xf32> -> tensor<32x64xf32>
  // CHECK: moe.pixel_shuffle %{{.*}} grid 4 : tensor<32x64xf32> -> tensor<8x256xf32>
  %z = moe.pixel_shuffle %y grid 4 : tensor<32x64xf32> -> tensor<8x256xf32>
  return %z : tensor<8x256xf32>
}

// CHECK-LABEL: @patch_embed
func.func @patch_embed(%tiles: tensor<2x56x56x3xui8>, %w: tensor<64x588xbf16>,
                       %class: tensor<64xbf16>, %positions: tensor<17x64xbf16>) -> tensor<34x64xf32> {
  // CHECK: moe.patch_embed %arg0, %arg1, %arg2, %arg3, %arg2, %arg2 patch 14 rescale 1.000000e+00
  // CHECK-SAME: mean [0.000000e+00, 0.000000e+00, 0.000000e+00]
  // CHECK-SAME: std [1.000000e+00, 1.000000e+00, 1.000000e+00] eps 1.250000e-01
  // CHECK-SAME: : tensor<2x56x56x3xui8>, tensor<64x588xbf16>, tensor<64xbf16>, tensor<17x64xbf16>,
  // CHECK-SAME: tensor<64xbf16>, tensor<64xbf16> -> tensor<34x64xf32>
  %x = moe.patch_embed %tiles, %w, %class, %positions, %class, %class patch 14
      rescale 1.0 mean [0.0, 0.0, 0.0] std [1.0, 1.0, 1.0] eps 0.125
      : tensor<2x56x56x3xui8>, tensor<64x588xbf16>, tensor<64xbf16>, tensor<17x64xbf16>,
        tensor<64xbf16>, tensor<64xbf16> -> tensor<34x64xf32>
  return %x : tensor<34x64xf32>
}

// CHECK-LABEL: @tower
func.func @tower(%x: tensor<?x64xf32>, %w: tensor<64xbf16>, %m: tensor<192x64xbf16>,
                 %b: tensor<192xbf16>, %o: tensor<64x64xbf16>) -> tensor<?x256xf32> {
  // CHECK: %[[QKV:.*]] = moe.tower_qkv %arg0, %arg1, %arg1, %arg2, %arg3 heads 4 grid 4 theta 1.000000e+04 eps 1.250000e-01
  // CHECK-SAME: : tensor<?x64xf32>, tensor<64xbf16>, tensor<64xbf16>, tensor<192x64xbf16>, tensor<192xbf16> -> tensor<?x192xf32>
  %qkv = moe.tower_qkv %x, %w, %w, %m, %b heads 4 grid 4 theta 1.0e4 eps 0.125
      : tensor<?x64xf32>, tensor<64xbf16>, tensor<64xbf16>, tensor<192x64xbf16>, tensor<192xbf16>
      -> tensor<?x192xf32>
  // CHECK: moe.tower_attention %[[QKV]] heads 4 grid 4 : tensor<?x192xf32> -> tensor<?x64xf32>
  %a = moe.tower_attention %qkv heads 4 grid 4 : tensor<?x192xf32> -> tensor<?x64xf32>
  // CHECK: moe.projection %{{.*}}, %arg4 : tensor<?x64xf32>, tensor<64x64xbf16> -> tensor<?x64xf32>
  %p = moe.projection %a, %o : tensor<?x64xf32>, tensor<64x64xbf16> -> tensor<?x64xf32>
  // CHECK: moe.projection %{{.*}}, %arg4 norm %arg1, %arg1 eps 1.250000e-01 : tensor<64xbf16>, tensor<64xbf16>
  // CHECK-SAME: bias %arg1 : tensor<64xbf16> gelu residual %arg0 : tensor<?x64xf32>
  // CHECK-SAME: : tensor<?x64xf32>, tensor<64x64xbf16> -> tensor<?x64xf32>
  %r = moe.projection %p, %o norm %w, %w eps 0.125 : tensor<64xbf16>, tensor<64xbf16>
      bias %w : tensor<64xbf16> gelu residual %x : tensor<?x64xf32>
      : tensor<?x64xf32>, tensor<64x64xbf16> -> tensor<?x64xf32>
  // CHECK: moe.tower_output %{{.*}}, %arg1, %arg1 grid 4 eps 1.250000e-01
  // CHECK-SAME: : tensor<?x64xf32>, tensor<64xbf16>, tensor<64xbf16> -> tensor<?x256xf32>
  %y = moe.tower_output %r, %w, %w grid 4 eps 0.125
      : tensor<?x64xf32>, tensor<64xbf16>, tensor<64xbf16> -> tensor<?x256xf32>
  return %y : tensor<?x256xf32>
}
