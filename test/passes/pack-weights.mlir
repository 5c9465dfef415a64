// RUN: moe-opt %s --moe-pack-weights=weights=bf16 --split-input-file --verify-diagnostics | FileCheck %s --check-prefixes=CHECK,BF16
// RUN: moe-opt %s --moe-pack-weights=weights=f32 --split-input-file --verify-diagnostics | FileCheck %s --check-prefixes=CHECK,F32
// RUN: moe-opt %s --moe-pack-weights=target=cuda --split-input-file --verify-diagnostics | FileCheck %s --check-prefix=CUDA
// RUN: not moe-opt %s --moe-pack-weights="target=cuda weights=f32" --split-input-file 2>&1 | FileCheck %s --check-prefix=CUDA-F32
// CUDA-F32: error: weight 'qkv' (attention) would be stored as f32, and the kernels for cuda take bf16 or codes in groups of 128, 64, 32 or 16 columns or of whole rows: use for example --weights bf16 or int4, or targets of CPUs alone

// Packing again changes nothing.
// RUN: moe-opt %s --moe-pack-weights=weights=bf16 --moe-pack-weights=weights=bf16 --split-input-file --verify-diagnostics | FileCheck %s --check-prefixes=CHECK,BF16

// BF16: moe.weight @qkv {{.*}} packed #moe.packing<heads, bf16, 4>
// BF16-NEXT: moe.weight @o {{.*}} packed #moe.packing<matrix, bf16>
// F32: moe.weight @qkv {{.*}} packed #moe.packing<heads, f32, 4>
// F32-NEXT: moe.weight @o {{.*}} packed #moe.packing<matrix, f32>
// CHECK-NEXT: moe.weight @norm {{.*}} packed #moe.packing<rows, f32>
// CHECK-NEXT: moe.weight @router {{.*}} packed #moe.packing<rows, f32>
// BF16-NEXT: moe.weight @shared_gate_up {{.*}} packed #moe.packing<gate_up, bf16>
// BF16-NEXT: moe.weight @gate_up {{.*}} packed #moe.packing<gate_up, bf16>
// BF16-NEXT: moe.weight @shared_down {{.*}} packed #moe.packing<matrix, bf16>
// BF16-NEXT: moe.weight @down {{.*}} packed #moe.packing<matrix, bf16>
// BF16-NEXT: moe.weight @mlp.gate_up {{.*}} packed #moe.packing<gate_up, bf16>
// BF16-NEXT: moe.weight @mlp.down {{.*}} packed #moe.packing<matrix, bf16>
// F32-NEXT: moe.weight @shared_gate_up {{.*}} packed #moe.packing<gate_up, f32>
// F32-NEXT: moe.weight @gate_up {{.*}} packed #moe.packing<gate_up, f32>
// F32-NEXT: moe.weight @shared_down {{.*}} packed #moe.packing<matrix, f32>
// F32-NEXT: moe.weight @down {{.*}} packed #moe.packing<matrix, f32>
// F32-NEXT: moe.weight @mlp.gate_up {{.*}} packed #moe.packing<gate_up, f32>
// F32-NEXT: moe.weight @mlp.down {{.*}} packed #moe.packing<matrix, f32>
// CUDA: moe.weight @qkv {{.*}} packed #moe.packing<heads, bf16, 4>
// CUDA-NEXT: moe.weight @o {{.*}} packed #moe.packing<matrix, bf16>
// CUDA-NEXT: moe.weight @norm {{.*}} packed #moe.packing<rows, f32>
// CUDA-NEXT: moe.weight @router {{.*}} packed #moe.packing<rows, f32>
// CUDA-NEXT: moe.weight @shared_gate_up {{.*}} packed #moe.packing<gate_up, bf16>
// CUDA-NEXT: moe.weight @gate_up {{.*}} packed #moe.packing<gate_up, bf16>
// CUDA-NEXT: moe.weight @shared_down {{.*}} packed #moe.packing<matrix, bf16>
// CUDA-NEXT: moe.weight @down {{.*}} packed #moe.packing<matrix, bf16>
// CUDA-NEXT: moe.weight @mlp.gate_up {{.*}} packed #moe.packing<gate_up, bf16>
// CUDA-NEXT: moe.weight @mlp.down {{.*}} packed #moe.packing<matrix, bf16>
moe.weight @qkv : tensor<16x8xbf16> from [#moe.source<"qkv", [0, 0], [16, 8]>]
moe.weight @o : tensor<8x8xbf16> from [#moe.source<"o", [0, 0], [8, 8]>]
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @router : tensor<2x8xbf16> from [#moe.source<"r", [0, 0], [2, 8]>]
moe.weight @shared_gate_up : tensor<8x8xbf16> from [#moe.source<"sgu", [0, 0], [8, 8]>]
moe.weight @gate_up : tensor<2x8x8xbf16> from [#moe.source<"gu", [0, 0, 0], [2, 8, 8]>]
moe.weight @shared_down : tensor<8x4xbf16> from [#moe.source<"sd", [0, 0], [8, 4]>]
moe.weight @down : tensor<2x8x4xbf16> from [#moe.source<"d", [0, 0, 0], [2, 8, 4]>]
moe.weight @mlp.gate_up : tensor<32x8xbf16> from [#moe.source<"mgu", [0, 0], [32, 8]>]
moe.weight @mlp.down : tensor<8x16xbf16> from [#moe.source<"md", [0, 0], [8, 16]>]
moe.cache @kv heads 1 head_dim 4 : bf16
func.func @layers(%h: tensor<?x8xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x8xf32> {
  %wqkv = moe.load_weight @qkv : tensor<16x8xbf16>
  %wo = moe.load_weight @o : tensor<8x8xbf16>
  %norm = moe.load_weight @norm : tensor<8xbf16>
  %wr = moe.load_weight @router : tensor<2x8xbf16>
  %sgu = moe.load_weight @shared_gate_up : tensor<8x8xbf16>
  %gu = moe.load_weight @gate_up : tensor<2x8x8xbf16>
  %sd = moe.load_weight @shared_down : tensor<8x4xbf16>
  %d = moe.load_weight @down : tensor<2x8x4xbf16>
  %mgu = moe.load_weight @mlp.gate_up : tensor<32x8xbf16>
  %md = moe.load_weight @mlp.down : tensor<8x16xbf16>
  %qkv = moe.qkv %h, %norm, %wqkv eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xbf16>, tensor<16x8xbf16> -> tensor<?x16xf32>
  %o = moe.attention_block @kv, %qkv, %p, %s : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x8xf32>
  %h1 = moe.linear_residual %o, %wo, %h : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<?x8xf32>
  %h2 = moe.moe_block %h1, %norm, %wr, %sgu, %gu, %sd, %d top 1 eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xbf16>, tensor<2x8xbf16>, tensor<8x8xbf16>, tensor<2x8x8xbf16>,
        tensor<8x4xbf16>, tensor<2x8x4xbf16>
  %h3 = moe.mlp_block %h2, %norm, %mgu, %md eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xbf16>, tensor<32x8xbf16>, tensor<8x16xbf16>
  return %h3 : tensor<?x8xf32>
}

// -----

// The embedding is tied to the head, and its two users want it differently.
// BF16: moe.weight @embedding : {{.*}} packed #moe.packing<rows, bf16>
// BF16-NEXT: moe.weight @embedding.matrix : {{.*}} from [#moe.source<"e", [0, 0], [32, 8]>] packed #moe.packing<matrix, bf16>
// F32: moe.weight @embedding : {{.*}} packed #moe.packing<rows, f32>
// F32-NEXT: moe.weight @embedding.matrix : {{.*}} from [#moe.source<"e", [0, 0], [32, 8]>] packed #moe.packing<matrix, f32>
// CUDA: moe.weight @embedding : {{.*}} packed #moe.packing<rows, bf16>
// CUDA-NEXT: moe.weight @embedding.matrix : {{.*}} packed #moe.packing<matrix, bf16>
// CHECK-NEXT: moe.weight @norm
// CHECK-LABEL: func.func @tied
// CHECK-DAG: %[[ROWS:.*]] = moe.load_weight @embedding :
// CHECK-DAG: %[[PANEL:.*]] = moe.load_weight @embedding.matrix :
// CHECK: moe.embed %{{.*}}, %[[ROWS]]
// CHECK-NEXT: moe.head %{{.*}}, %{{.*}}, %{{.*}}, %[[PANEL]]
moe.weight @embedding : tensor<32x8xbf16> from [#moe.source<"e", [0, 0], [32, 8]>]
moe.weight @norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
func.func @tied(%t: tensor<?xi32>, %rows: tensor<?xi32>) -> tensor<?x32xf32> {
  %w = moe.load_weight @embedding : tensor<32x8xbf16>
  %norm = moe.load_weight @norm : tensor<8xbf16>
  %h = moe.embed %t, %w : tensor<?xi32>, tensor<32x8xbf16> -> tensor<?x8xf32>
  %l = moe.head %h, %rows, %norm, %w eps 1.0e-5
      : tensor<?x8xf32>, tensor<?xi32>, tensor<8xbf16>, tensor<32x8xbf16> -> tensor<?x32xf32>
  return %l : tensor<?x32xf32>
}

// -----

// Two loads of one weight by users that agree stay one weight.
// CHECK: moe.weight @w
// CHECK-NOT: moe.weight
// CHECK-LABEL: func.func @agree
moe.weight @w : tensor<8x8xf32> from [#moe.source<"w", [0, 0], [8, 8]>]
func.func @agree(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %a = moe.load_weight @w : tensor<8x8xf32>
  %b = moe.load_weight @w : tensor<8x8xf32>
  %y = moe.linear %x, %a : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %z = moe.linear_residual %y, %b, %x : tensor<?x8xf32>, tensor<8x8xf32>, tensor<?x8xf32>
  return %z : tensor<?x8xf32>
}

// -----

// Before fusion too a router keeps f32, and other projections do not.
// BF16: moe.weight @gate {{.*}} packed #moe.packing<matrix, bf16>
// F32: moe.weight @gate {{.*}} packed #moe.packing<matrix, f32>
// CUDA: moe.weight @gate {{.*}} packed #moe.packing<matrix, bf16>
// CUDA-NEXT: moe.weight @router {{.*}} packed #moe.packing<rows, f32>
// CHECK-NEXT: moe.weight @router {{.*}} packed #moe.packing<rows, f32>
// CHECK-LABEL: func.func @unfused
moe.weight @gate : tensor<8x8xf32> from [#moe.source<"g", [0, 0], [8, 8]>]
moe.weight @router : tensor<2x8xf32> from [#moe.source<"r", [0, 0], [2, 8]>]
func.func @unfused(%x: tensor<?x8xf32>) -> (tensor<?x8xf32>, tensor<?x1xi32>) {
  %g = moe.load_weight @gate : tensor<8x8xf32>
  %r = moe.load_weight @router : tensor<2x8xf32>
  %y = moe.linear %x, %g : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %l = moe.linear %y, %r : tensor<?x8xf32>, tensor<2x8xf32> -> tensor<?x2xf32>
  %e, %s = moe.route %l top 1 : tensor<?x2xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  return %y, %e : tensor<?x8xf32>, tensor<?x1xi32>
}

// -----

// expected-note @+1 {{the weight is here}}
moe.weight @w : tensor<8x8xf32> from [#moe.source<"w", [0, 0], [8, 8]>]
func.func @unknown_user() -> tensor<8x8xf32> {
  %w = moe.load_weight @w : tensor<8x8xf32>
  // expected-error @+1 {{reads weight @w in a way that has no packing}}
  return %w : tensor<8x8xf32>
}
