// Which weights a recipe stores in which format.
// RUN: moe-opt %s --moe-pack-weights=weights=int4-g4 --split-input-file | FileCheck %s --check-prefixes=CHECK,INT4
// RUN: moe-opt %s --moe-pack-weights="weights=int8-row-f32,head=bf16,routed=int4-g4,shared=keep,layers.?.o=fp8-g4" --split-input-file | FileCheck %s --check-prefixes=CHECK,MIXED
// RUN: not moe-opt %s --moe-pack-weights=weights=int4-g2 --split-input-file 2>&1 | FileCheck %s --check-prefix=SHORT
// RUN: not moe-opt %s --moe-pack-weights=target=vax --split-input-file 2>&1 | FileCheck %s --check-prefix=NOWHERE
// RUN: moe-opt %s --moe-pack-weights --split-input-file | FileCheck %s --check-prefixes=CHECK,KEEP
// SHORT: would be stored as int8-g2-f16, and the kernels for cpu take groups of a multiple of 4 columns
// NOWHERE: there is no target 'vax' to pack weights for

// Packing again changes nothing.
// RUN: moe-opt %s --moe-pack-weights=weights=int4-g4 --moe-pack-weights=weights=int4-g4 --split-input-file | FileCheck %s --check-prefixes=CHECK,INT4

// RUN: not moe-opt %s --moe-pack-weights=weights=int4 --split-input-file 2>&1 | FileCheck %s --check-prefix=GROUP
// GROUP: error: weight 'embedding' (embedding) has rows of 8 columns, which groups of 128 do not divide: choose another format, for example --weights int4,embedding=bf16
// RUN: not moe-opt %s --moe-pack-weights=weights=bf16,layers.7.*=int8-g4 --split-input-file 2>&1 | FileCheck %s --check-prefix=NAME
// NAME: error: the recipe 'bf16,layers.7.*=int8-g4' has a format for 'layers.7.*', which is neither a kind of weight (embedding, attention, shared, routed, dense, head, vision) nor the name of one: embedding, norm, router, layers.0.qkv, layers.0.o, shared_gate_up, gate_up, shared_down, down, mlp.gate_up and 2 more
// RUN: not moe-opt %s --moe-pack-weights=weights=int3 --split-input-file 2>&1 | FileCheck %s --check-prefix=FORMAT
// FORMAT: error: 'int3' is no format of weights: use keep, f32, bf16, int4, int8 or fp8
// RUN: not moe-opt %s --moe-pack-weights="target=cuda weights=bf16,head=int8-g8" --split-input-file 2>&1 | FileCheck %s --check-prefix=CUDA
// CUDA: error: weight 'head' (head) would be stored as int8-g8-f16, and the kernels for cuda take bf16 or codes in groups of 128, 64, 32 or 16 columns or of whole rows: use for example --weights bf16 or int4, or targets of CPUs alone

// INT4: moe.weight @embedding {{.*}} packed #moe.packing<rows, i8 group 4 scale f16>
// MIXED: moe.weight @embedding {{.*}} packed #moe.packing<rows, i8 group 8 scale f32>
// KEEP: moe.weight @embedding {{.*}} packed #moe.packing<rows, bf16>
// CHECK-NEXT: moe.weight @norm {{.*}} packed #moe.packing<rows, f32>
// CHECK-NEXT: moe.weight @router {{.*}} packed #moe.packing<rows, f32>
// INT4-NEXT: moe.weight @layers.0.qkv {{.*}} packed #moe.packing<heads, i4 group 4 scale f16, 4>
// INT4-NEXT: moe.weight @layers.0.o {{.*}} packed #moe.packing<matrix, i4 group 4 scale f16>
// INT4-NEXT: moe.weight @shared_gate_up {{.*}} packed #moe.packing<gate_up, i4 group 4 scale f16>
// INT4-NEXT: moe.weight @gate_up {{.*}} packed #moe.packing<gate_up, i4 group 4 scale f16>
// INT4-NEXT: moe.weight @shared_down {{.*}} packed #moe.packing<matrix, i4 group 4 scale f16>
// INT4-NEXT: moe.weight @down {{.*}} packed #moe.packing<matrix, i4 group 4 scale f16>
// INT4-NEXT: moe.weight @mlp.gate_up {{.*}} packed #moe.packing<gate_up, i4 group 4 scale f16>
// INT4-NEXT: moe.weight @mlp.down {{.*}} packed #moe.packing<matrix, i4 group 4 scale f16>
// INT4-NEXT: moe.weight @head {{.*}} packed #moe.packing<matrix, i8 group 4 scale f16>
// MIXED-NEXT: moe.weight @layers.0.qkv {{.*}} packed #moe.packing<heads, i8 group 8 scale f32, 4>
// MIXED-NEXT: moe.weight @layers.0.o {{.*}} packed #moe.packing<matrix, f8E4M3FN group 4 scale f32>
// MIXED-NEXT: moe.weight @shared_gate_up {{.*}} packed #moe.packing<gate_up, i4 group 4 scale bf16 zeros>
// MIXED-NEXT: moe.weight @gate_up {{.*}} packed #moe.packing<gate_up, i4 group 4 scale f16>
// MIXED-NEXT: moe.weight @shared_down {{.*}} packed #moe.packing<matrix, i8 group 4 scale f32>
// MIXED-NEXT: moe.weight @down {{.*}} packed #moe.packing<matrix, i4 group 4 scale f16>
// MIXED-NEXT: moe.weight @mlp.gate_up {{.*}} packed #moe.packing<gate_up, i8 group 8 scale f32>
// MIXED-NEXT: moe.weight @mlp.down {{.*}} packed #moe.packing<matrix, i8 group 16 scale f32>
// MIXED-NEXT: moe.weight @head {{.*}} packed #moe.packing<matrix, bf16>
// KEEP-NEXT: moe.weight @layers.0.qkv {{.*}} packed #moe.packing<heads, bf16, 4>
// KEEP-NEXT: moe.weight @layers.0.o {{.*}} packed #moe.packing<matrix, bf16>
// KEEP-NEXT: moe.weight @shared_gate_up {{.*}} packed #moe.packing<gate_up, i4 group 4 scale bf16 zeros>
// KEEP-NEXT: moe.weight @gate_up {{.*}} packed #moe.packing<gate_up, f8E4M3FN group 8 scale f32>
// KEEP-NEXT: moe.weight @shared_down {{.*}} packed #moe.packing<matrix, bf16>
// KEEP-NEXT: moe.weight @down {{.*}} packed #moe.packing<matrix, bf16>
moe.weight @embedding : tensor<32x8xbf16> from [#moe.source<"e", [0, 0], [32, 8]>]
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @router : tensor<2x8xbf16> from [#moe.source<"r", [0, 0], [2, 8]>]
moe.weight @layers.0.qkv : tensor<16x8xbf16> from [#moe.source<"qkv", [0, 0], [16, 8]>]
moe.weight @layers.0.o : tensor<8x8xbf16> from [#moe.source<"o", [0, 0], [8, 8]>]
moe.weight @shared_gate_up : tensor<8x8xbf16> from [#moe.source<"sgu", [0, 0], [8, 8]>]
    encoded #moe.format<i4 group 4 scale bf16 zeros>
moe.weight @gate_up : tensor<2x8x8xbf16> from [#moe.source<"gu", [0, 0, 0], [2, 8, 8]>]
    encoded #moe.format<f8E4M3FN group 8 scale f32>
moe.weight @shared_down : tensor<8x4xbf16> from [#moe.source<"sd", [0, 0], [8, 4]>]
moe.weight @down : tensor<2x8x4xbf16> from [#moe.source<"d", [0, 0, 0], [2, 8, 4]>]
moe.weight @mlp.gate_up : tensor<32x8xbf16> from [#moe.source<"mgu", [0, 0], [32, 8]>]
moe.weight @mlp.down : tensor<8x16xbf16> from [#moe.source<"md", [0, 0], [8, 16]>]
moe.weight @head : tensor<32x8xbf16> from [#moe.source<"lm", [0, 0], [32, 8]>]
moe.cache @kv heads 1 head_dim 4 : bf16
func.func @layers(%t: tensor<?xi32>, %p: tensor<?xi32>, %s: tensor<?xi32>, %rows: tensor<?xi32>)
    -> tensor<?x32xf32> {
  %table = moe.load_weight @embedding : tensor<32x8xbf16>
  %wqkv = moe.load_weight @layers.0.qkv : tensor<16x8xbf16>
  %wo = moe.load_weight @layers.0.o : tensor<8x8xbf16>
  %norm = moe.load_weight @norm : tensor<8xbf16>
  %wr = moe.load_weight @router : tensor<2x8xbf16>
  %sgu = moe.load_weight @shared_gate_up : tensor<8x8xbf16>
  %gu = moe.load_weight @gate_up : tensor<2x8x8xbf16>
  %sd = moe.load_weight @shared_down : tensor<8x4xbf16>
  %d = moe.load_weight @down : tensor<2x8x4xbf16>
  %mgu = moe.load_weight @mlp.gate_up : tensor<32x8xbf16>
  %md = moe.load_weight @mlp.down : tensor<8x16xbf16>
  %head = moe.load_weight @head : tensor<32x8xbf16>
  %h = moe.embed %t, %table : tensor<?xi32>, tensor<32x8xbf16> -> tensor<?x8xf32>
  %qkv = moe.qkv %h, %norm, %wqkv eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xbf16>, tensor<16x8xbf16> -> tensor<?x16xf32>
  %o = moe.attention_block @kv, %qkv, %p, %s : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x8xf32>
  %h1 = moe.linear_residual %o, %wo, %h : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<?x8xf32>
  %h2 = moe.moe_block %h1, %norm, %wr, %sgu, %gu, %sd, %d top 1 eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xbf16>, tensor<2x8xbf16>, tensor<8x8xbf16>, tensor<2x8x8xbf16>,
        tensor<8x4xbf16>, tensor<2x8x4xbf16>
  %h3 = moe.mlp_block %h2, %norm, %mgu, %md eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xbf16>, tensor<32x8xbf16>, tensor<8x16xbf16>
  %l = moe.head %h3, %rows, %norm, %head eps 1.0e-5
      : tensor<?x8xf32>, tensor<?xi32>, tensor<8xbf16>, tensor<32x8xbf16> -> tensor<?x32xf32>
  return %l : tensor<?x32xf32>
}

// -----

// Tied, but of two kinds.
// INT4: moe.weight @embedding : {{.*}} packed #moe.packing<rows, i8 group 4 scale f16>
// INT4-NEXT: moe.weight @embedding.matrix : {{.*}} packed #moe.packing<matrix, i8 group 4 scale f16>
// MIXED: moe.weight @embedding : {{.*}} packed #moe.packing<rows, i8 group 8 scale f32>
// MIXED-NEXT: moe.weight @embedding.matrix : {{.*}} packed #moe.packing<matrix, bf16>
moe.weight @embedding : tensor<32x8xbf16> from [#moe.source<"e", [0, 0], [32, 8]>]
moe.weight @layers.0.o : tensor<8x8xbf16> from [#moe.source<"o", [0, 0], [8, 8]>]
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
func.func @tied(%t: tensor<?xi32>, %rows: tensor<?xi32>) -> tensor<?x32xf32> {
  %w = moe.load_weight @embedding : tensor<32x8xbf16>
  %o = moe.load_weight @layers.0.o : tensor<8x8xbf16>
  %norm = moe.load_weight @norm : tensor<8xbf16>
  %h = moe.embed %t, %w : tensor<?xi32>, tensor<32x8xbf16> -> tensor<?x8xf32>
  %h1 = moe.linear_residual %h, %o, %h : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<?x8xf32>
  %l = moe.head %h1, %rows, %norm, %w eps 1.0e-5
      : tensor<?x8xf32>, tensor<?xi32>, tensor<8xbf16>, tensor<32x8xbf16> -> tensor<?x32xf32>
  return %l : tensor<?x32xf32>
}
