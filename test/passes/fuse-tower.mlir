// RUN: moe-opt %s --moe-fuse-patch-embed --moe-fuse-tower-attention --moe-fuse-tower-output --moe-fuse-projection --moe-drop-unused-weights --split-input-file | FileCheck %s

// CHECK: moe.weight @layers.0.qkv : tensor<24x8xbf16> from [#moe.source<"q", [0, 0], [8, 8]>, #moe.source<"k", [0, 0], [8, 8]>, #moe.source<"v", [0, 0], [8, 8]>]
// CHECK: moe.weight @layers.0.qkv_bias : tensor<24xbf16> from [#moe.source<"qb", [0], [8]>, #moe.source<"kb", [0], [8]>, #moe.source<"vb", [0], [8]>]
// CHECK-LABEL: func.func @vision
// CHECK-SAME: (%[[TILES:.*]]: tensor<?x4x4x3xui8>)
// CHECK: %[[X:.*]] = moe.patch_embed %[[TILES]], {{.*}} patch 2
// CHECK: %[[QKV:.*]] = moe.tower_qkv %[[X]], {{.*}} heads 2 grid 2 theta 1.000000e+04
// CHECK-NEXT: %[[A:.*]] = moe.tower_attention %[[QKV]] heads 2 grid 2
// CHECK-NEXT: %[[H:.*]] = moe.projection %[[A]], %{{.*}} bias %{{.*}} : tensor<8xbf16> residual %[[X]]
// CHECK-NEXT: %[[F:.*]] = moe.projection %[[H]], %{{.*}} norm %{{.*}}, %{{.*}} eps {{.*}} bias %{{.*}} : tensor<16xbf16> gelu
// CHECK-NEXT: %[[G:.*]] = moe.projection %[[F]], %{{.*}} bias %{{.*}} residual %[[H]]
// CHECK-NEXT: %[[O:.*]] = moe.tower_output %[[G]]
// CHECK-NEXT: %[[P:.*]] = moe.projection %[[O]], %{{[0-9a-z_]+}} gelu : tensor<?x32xf32>
// CHECK-NEXT: %[[R:.*]] = moe.projection %[[P]], %{{[0-9a-z_]+}} : tensor<?x8xf32>
// CHECK-NEXT: return %[[R]]
moe.weight @patch : tensor<8x12xbf16> from [#moe.source<"p", [0, 0], [8, 12]>]
moe.weight @class : tensor<8xbf16> from [#moe.source<"c", [0], [8]>]
moe.weight @positions : tensor<5x8xbf16> from [#moe.source<"t", [0, 0], [5, 8]>]
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @layers.0.q : tensor<8x8xbf16> from [#moe.source<"q", [0, 0], [8, 8]>]
moe.weight @layers.0.k : tensor<8x8xbf16> from [#moe.source<"k", [0, 0], [8, 8]>]
moe.weight @layers.0.v : tensor<8x8xbf16> from [#moe.source<"v", [0, 0], [8, 8]>]
moe.weight @layers.0.q_bias : tensor<8xbf16> from [#moe.source<"qb", [0], [8]>]
moe.weight @layers.0.k_bias : tensor<8xbf16> from [#moe.source<"kb", [0], [8]>]
moe.weight @layers.0.v_bias : tensor<8xbf16> from [#moe.source<"vb", [0], [8]>]
moe.weight @layers.0.o : tensor<8x8xbf16> from [#moe.source<"o", [0, 0], [8, 8]>]
moe.weight @layers.0.o_bias : tensor<8xbf16> from [#moe.source<"ob", [0], [8]>]
moe.weight @layers.0.fc1 : tensor<16x8xbf16> from [#moe.source<"f", [0, 0], [16, 8]>]
moe.weight @layers.0.fc1_bias : tensor<16xbf16> from [#moe.source<"fb", [0], [16]>]
moe.weight @layers.0.fc2 : tensor<8x16xbf16> from [#moe.source<"g", [0, 0], [8, 16]>]
moe.weight @layers.0.fc2_bias : tensor<8xbf16> from [#moe.source<"gb", [0], [8]>]
moe.weight @adapter : tensor<8x32xbf16> from [#moe.source<"a", [0, 0], [8, 32]>]
moe.weight @projector : tensor<6x8xbf16> from [#moe.source<"j", [0, 0], [6, 8]>]
func.func @vision(%tiles: tensor<?x4x4x3xui8>) -> tensor<?x6xf32> {
  %patch = moe.load_weight @patch : tensor<8x12xbf16>
  %class = moe.load_weight @class : tensor<8xbf16>
  %positions = moe.load_weight @positions : tensor<5x8xbf16>
  %n = moe.load_weight @norm : tensor<8xbf16>
  %wq = moe.load_weight @layers.0.q : tensor<8x8xbf16>
  %wk = moe.load_weight @layers.0.k : tensor<8x8xbf16>
  %wv = moe.load_weight @layers.0.v : tensor<8x8xbf16>
  %bq = moe.load_weight @layers.0.q_bias : tensor<8xbf16>
  %bk = moe.load_weight @layers.0.k_bias : tensor<8xbf16>
  %bv = moe.load_weight @layers.0.v_bias : tensor<8xbf16>
  %wo = moe.load_weight @layers.0.o : tensor<8x8xbf16>
  %bo = moe.load_weight @layers.0.o_bias : tensor<8xbf16>
  %w1 = moe.load_weight @layers.0.fc1 : tensor<16x8xbf16>
  %b1 = moe.load_weight @layers.0.fc1_bias : tensor<16xbf16>
  %w2 = moe.load_weight @layers.0.fc2 : tensor<8x16xbf16>
  %b2 = moe.load_weight @layers.0.fc2_bias : tensor<8xbf16>
  %wa = moe.load_weight @adapter : tensor<8x32xbf16>
  %wp = moe.load_weight @projector : tensor<6x8xbf16>
  %p = moe.patches %tiles patch 2 rescale 0.00392156886 mean [0.5, 0.5, 0.5] std [0.5, 0.5, 0.5] : tensor<?x4x4x3xui8> -> tensor<?x12xf32>
  %e = moe.linear %p, %patch : tensor<?x12xf32>, tensor<8x12xbf16> -> tensor<?x8xf32>
  %c = moe.append_class %e, %class grid 2 : tensor<?x8xf32>, tensor<8xbf16> -> tensor<?x8xf32>
  %s = moe.add_positions %c, %positions : tensor<?x8xf32>, tensor<5x8xbf16>
  %x = moe.layer_norm %s, %n, %n eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16>
  %n1 = moe.layer_norm %x, %n, %n eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16>
  %q = moe.linear_bias %n1, %wq, %bq : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<8xbf16> -> tensor<?x8xf32>
  %k = moe.linear_bias %n1, %wk, %bk : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<8xbf16> -> tensor<?x8xf32>
  %v = moe.linear_bias %n1, %wv, %bv : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<8xbf16> -> tensor<?x8xf32>
  %qr = moe.patch_rope %q heads 2 grid 2 theta 1.0e4 : tensor<?x8xf32>
  %kr = moe.patch_rope %k heads 2 grid 2 theta 1.0e4 : tensor<?x8xf32>
  %a = moe.tile_attention %qr, %kr, %v heads 2 grid 2 : tensor<?x8xf32>
  %o = moe.linear_bias %a, %wo, %bo : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<8xbf16> -> tensor<?x8xf32>
  %h = moe.add %x, %o : tensor<?x8xf32>
  %n2 = moe.layer_norm %h, %n, %n eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16>
  %f = moe.linear_bias %n2, %w1, %b1 : tensor<?x8xf32>, tensor<16x8xbf16>, tensor<16xbf16> -> tensor<?x16xf32>
  %g = moe.gelu %f : tensor<?x16xf32>
  %m = moe.linear_bias %g, %w2, %b2 : tensor<?x16xf32>, tensor<8x16xbf16>, tensor<8xbf16> -> tensor<?x8xf32>
  %h2 = moe.add %h, %m : tensor<?x8xf32>
  %n3 = moe.layer_norm %h2, %n, %n eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16>
  %d = moe.drop_class %n3 grid 2 : tensor<?x8xf32> -> tensor<?x8xf32>
  %t = moe.pixel_shuffle %d grid 2 : tensor<?x8xf32> -> tensor<?x32xf32>
  %y = moe.linear %t, %wa : tensor<?x32xf32>, tensor<8x32xbf16> -> tensor<?x8xf32>
  %z = moe.gelu %y : tensor<?x8xf32>
  %r = moe.linear %z, %wp : tensor<?x8xf32>, tensor<6x8xbf16> -> tensor<?x6xf32>
  return %r : tensor<?x6xf32>
}

// -----

// Values in between that others use stay; a projection takes what it can.
// CHECK-LABEL: func.func @vision
// CHECK-NOT: moe.patch_embed
// CHECK-NOT: moe.tower_
// CHECK: %[[S:.*]] = moe.add_positions
// CHECK: %[[N:.*]] = moe.layer_norm %[[S]]
// CHECK: %[[Q:.*]] = moe.patch_rope
// CHECK: moe.tile_attention %[[Q]]
// CHECK: %[[F:.*]] = moe.projection %[[N]], %{{[0-9a-z_]+}} bias
// CHECK-NEXT: moe.gelu %[[F]]
// CHECK: moe.pixel_shuffle
moe.weight @patch : tensor<8x12xf32> from [#moe.source<"p", [0, 0], [8, 12]>]
moe.weight @class : tensor<8xf32> from [#moe.source<"c", [0], [8]>]
moe.weight @positions : tensor<5x8xf32> from [#moe.source<"t", [0, 0], [5, 8]>]
moe.weight @square : tensor<8x8xf32> from [#moe.source<"q", [0, 0], [8, 8]>]
func.func @vision(%tiles: tensor<?x4x4x3xui8>) -> (tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x32xf32>, tensor<?x8xf32>) {
  %patch = moe.load_weight @patch : tensor<8x12xf32>
  %class = moe.load_weight @class : tensor<8xf32>
  %positions = moe.load_weight @positions : tensor<5x8xf32>
  %w = moe.load_weight @square : tensor<8x8xf32>
  %p = moe.patches %tiles patch 2 rescale 0.00392156886 mean [0.5, 0.5, 0.5] std [0.5, 0.5, 0.5] : tensor<?x4x4x3xui8> -> tensor<?x12xf32>
  %e = moe.linear %p, %patch : tensor<?x12xf32>, tensor<8x12xf32> -> tensor<?x8xf32>
  %c = moe.append_class %e, %class grid 2 : tensor<?x8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  %s = moe.add_positions %c, %positions : tensor<?x8xf32>, tensor<5x8xf32>
  %x = moe.layer_norm %s, %class, %class eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>, tensor<8xf32>
  %q = moe.linear_bias %x, %w, %class : tensor<?x8xf32>, tensor<8x8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  %k = moe.linear_bias %x, %w, %class : tensor<?x8xf32>, tensor<8x8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  %v = moe.linear_bias %x, %w, %class : tensor<?x8xf32>, tensor<8x8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  %qr = moe.patch_rope %q heads 2 grid 2 theta 1.0e4 : tensor<?x8xf32>
  %kr = moe.patch_rope %k heads 2 grid 2 theta 1.0e4 : tensor<?x8xf32>
  %a = moe.tile_attention %qr, %kr, %v heads 2 grid 2 : tensor<?x8xf32>
  %f = moe.linear_bias %x, %w, %class : tensor<?x8xf32>, tensor<8x8xf32>, tensor<8xf32> -> tensor<?x8xf32>
  %g = moe.gelu %f : tensor<?x8xf32>
  %n3 = moe.layer_norm %g, %class, %class eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>, tensor<8xf32>
  %d = moe.drop_class %n3 grid 2 : tensor<?x8xf32> -> tensor<?x8xf32>
  %t = moe.pixel_shuffle %d grid 2 : tensor<?x8xf32> -> tensor<?x32xf32>
  return %s, %qr, %a, %f, %g, %t, %n3 : tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x32xf32>, tensor<?x8xf32>
}

// -----

// Other functions keep their linears.
// CHECK-LABEL: func.func @step
// CHECK: moe.linear
// CHECK-NOT: moe.projection
moe.weight @square : tensor<8x8xf32> from [#moe.source<"q", [0, 0], [8, 8]>]
func.func @step(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %w = moe.load_weight @square : tensor<8x8xf32>
  %y = moe.linear %h, %w : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}
