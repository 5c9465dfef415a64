// RUN: moe-opt %s --moe-fuse | FileCheck %s
// RUN: moe-opt %s --moe-fuse --moe-pack-weights=weights=bf16 | FileCheck %s --check-prefix=PACKED

// A whole model of one dense layer. The MLP goes first: it ends as a projection with a residual does.
// CHECK-COUNT-9: moe.weight
// CHECK-NOT: moe.weight
// CHECK-LABEL: func.func @step
// CHECK-NOT: moe.{{add|linear |rms_norm|rope |append|attention |swiglu|select_rows}}
// CHECK: %[[H:.*]] = moe.embed
// CHECK: moe.rope_table
// CHECK: moe.qkv %[[H]]
// CHECK-NEXT: %[[O:.*]] = moe.attention_block
// CHECK-NOT: moe.{{add|linear |rms_norm|rope |append|attention |swiglu|select_rows}}
// CHECK: %[[H1:.*]] = moe.linear_residual %[[O]], %{{.*}}, %[[H]]
// CHECK: %[[H2:.*]] = moe.mlp_block %[[H1]]
// CHECK: %[[L:.*]] = moe.head %[[H2]], %arg3
// CHECK-NEXT: return %[[L]]

// PACKED: moe.weight @embedding {{.*}} packed #moe.packing<rows, bf16>
// PACKED: moe.weight @layers.0.qkv {{.*}} packed #moe.packing<heads, bf16, 4>
// PACKED: moe.weight @layers.0.mlp.gate_up {{.*}} packed #moe.packing<gate_up, bf16>
// PACKED: moe.weight @head {{.*}} packed #moe.packing<matrix, bf16>
moe.weight @embedding : tensor<32x8xbf16> from [#moe.source<"e", [0, 0], [32, 8]>]
moe.weight @layers.0.attention_norm : tensor<8xbf16> from [#moe.source<"an", [0], [8]>]
moe.weight @layers.0.q : tensor<8x8xbf16> from [#moe.source<"q", [0, 0], [8, 8]>]
moe.weight @layers.0.k : tensor<4x8xbf16> from [#moe.source<"k", [0, 0], [4, 8]>]
moe.weight @layers.0.v : tensor<4x8xbf16> from [#moe.source<"v", [0, 0], [4, 8]>]
moe.cache @layers.0.kv heads 1 head_dim 4 chunk 16 : bf16
moe.weight @layers.0.o : tensor<8x8xbf16> from [#moe.source<"o", [0, 0], [8, 8]>]
moe.weight @layers.0.ffn_norm : tensor<8xbf16> from [#moe.source<"fn", [0], [8]>]
moe.weight @layers.0.mlp.gate : tensor<16x8xbf16> from [#moe.source<"g", [0, 0], [16, 8]>]
moe.weight @layers.0.mlp.up : tensor<16x8xbf16> from [#moe.source<"u", [0, 0], [16, 8]>]
moe.weight @layers.0.mlp.down : tensor<8x16xbf16> from [#moe.source<"d", [0, 0], [8, 16]>]
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @head : tensor<32x8xbf16> from [#moe.source<"h", [0, 0], [32, 8]>]
func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>,
                %rows: tensor<?xi32>) -> tensor<?x32xf32> {
  %e = moe.load_weight @embedding : tensor<32x8xbf16>
  %h = moe.embed %tokens, %e : tensor<?xi32>, tensor<32x8xbf16> -> tensor<?x8xf32>
  %table = moe.rope_table %positions [1.0, 0.1] : tensor<?xi32> -> tensor<?x4xf32>
  %an = moe.load_weight @layers.0.attention_norm : tensor<8xbf16>
  %n = moe.rms_norm %h, %an eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>
  %wq = moe.load_weight @layers.0.q : tensor<8x8xbf16>
  %q = moe.linear %n, %wq : tensor<?x8xf32>, tensor<8x8xbf16> -> tensor<?x8xf32>
  %wk = moe.load_weight @layers.0.k : tensor<4x8xbf16>
  %k = moe.linear %n, %wk : tensor<?x8xf32>, tensor<4x8xbf16> -> tensor<?x4xf32>
  %wv = moe.load_weight @layers.0.v : tensor<4x8xbf16>
  %v = moe.linear %n, %wv : tensor<?x8xf32>, tensor<4x8xbf16> -> tensor<?x4xf32>
  %qr = moe.rope %q, %table : tensor<?x8xf32>, tensor<?x4xf32>
  %kr = moe.rope %k, %table : tensor<?x4xf32>, tensor<?x4xf32>
  moe.append @layers.0.kv, %kr, %v, %positions, %sequences : tensor<?x4xf32>, tensor<?xi32>
  %a = moe.attention @layers.0.kv, %qr, %positions, %sequences : tensor<?x8xf32>, tensor<?xi32>
  %wo = moe.load_weight @layers.0.o : tensor<8x8xbf16>
  %o = moe.linear %a, %wo : tensor<?x8xf32>, tensor<8x8xbf16> -> tensor<?x8xf32>
  %h1 = moe.add %h, %o : tensor<?x8xf32>
  %fn = moe.load_weight @layers.0.ffn_norm : tensor<8xbf16>
  %n1 = moe.rms_norm %h1, %fn eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>
  %wg = moe.load_weight @layers.0.mlp.gate : tensor<16x8xbf16>
  %g = moe.linear %n1, %wg : tensor<?x8xf32>, tensor<16x8xbf16> -> tensor<?x16xf32>
  %wu = moe.load_weight @layers.0.mlp.up : tensor<16x8xbf16>
  %u = moe.linear %n1, %wu : tensor<?x8xf32>, tensor<16x8xbf16> -> tensor<?x16xf32>
  %s = moe.swiglu %g, %u : tensor<?x16xf32>
  %wd = moe.load_weight @layers.0.mlp.down : tensor<8x16xbf16>
  %d = moe.linear %s, %wd : tensor<?x16xf32>, tensor<8x16xbf16> -> tensor<?x8xf32>
  %h2 = moe.add %h1, %d : tensor<?x8xf32>
  %r = moe.select_rows %h2, %rows : tensor<?x8xf32>, tensor<?xi32> -> tensor<?x8xf32>
  %wn = moe.load_weight @norm : tensor<8xbf16>
  %n2 = moe.rms_norm %r, %wn eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>
  %wh = moe.load_weight @head : tensor<32x8xbf16>
  %l = moe.linear %n2, %wh : tensor<?x8xf32>, tensor<32x8xbf16> -> tensor<?x32xf32>
  return %l : tensor<?x32xf32>
}
