// RUN: moe-opt %s --moe-fuse-qkv --moe-drop-unused-weights --split-input-file | FileCheck %s

// With RoPE and QK norm. The rows of q come first, then k, then v.
// CHECK: moe.weight @layers.0.norm
// CHECK-NEXT: moe.weight @layers.0.qkv : tensor<16x8xbf16> from
// CHECK-SAME: [#moe.source<"q", [0, 0], [8, 8]>, #moe.source<"k", [0, 0], [4, 8]>, #moe.source<"v", [0, 0], [4, 8]>]
// CHECK-NEXT: moe.cache
// CHECK-LABEL: func.func @rope
// CHECK-SAME: (%[[H:.*]]: tensor<?x8xf32>, %[[TABLE:.*]]: tensor<?x4xf32>, %[[P:.*]]: tensor<?xi32>, %[[S:.*]]: tensor<?xi32>)
// CHECK-NEXT: %[[NORM:.*]] = moe.load_weight @layers.0.norm
// CHECK-NEXT: %[[W:.*]] = moe.load_weight @layers.0.qkv : tensor<16x8xbf16>
// CHECK-NEXT: %[[QKV:.*]] = moe.qkv %[[H]], %[[NORM]], %[[W]] eps
// CHECK-NEXT: %[[O:.*]] = moe.attention_block @layers.0.kv, %[[QKV]], %[[P]], %[[S]] rope %[[TABLE]] : tensor<?x4xf32> {qk_norm = 9.99999974E-6 : f32} : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x8xf32>
// CHECK-NEXT: return %[[O]]
moe.weight @layers.0.norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @layers.0.q : tensor<8x8xbf16> from [#moe.source<"q", [0, 0], [8, 8]>]
moe.weight @layers.0.k : tensor<4x8xbf16> from [#moe.source<"k", [0, 0], [4, 8]>]
moe.weight @layers.0.v : tensor<4x8xbf16> from [#moe.source<"v", [0, 0], [4, 8]>]
moe.cache @layers.0.kv heads 1 head_dim 4 chunk 16 : bf16
func.func @rope(%h: tensor<?x8xf32>, %table: tensor<?x4xf32>, %p: tensor<?xi32>,
                %s: tensor<?xi32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @layers.0.norm : tensor<8xbf16>
  %wq = moe.load_weight @layers.0.q : tensor<8x8xbf16>
  %wk = moe.load_weight @layers.0.k : tensor<4x8xbf16>
  %wv = moe.load_weight @layers.0.v : tensor<4x8xbf16>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>
  %q = moe.linear %n, %wq : tensor<?x8xf32>, tensor<8x8xbf16> -> tensor<?x8xf32>
  %k = moe.linear %n, %wk : tensor<?x8xf32>, tensor<4x8xbf16> -> tensor<?x4xf32>
  %v = moe.linear %n, %wv : tensor<?x8xf32>, tensor<4x8xbf16> -> tensor<?x4xf32>
  %qr = moe.rope %q, %table : tensor<?x8xf32>, tensor<?x4xf32>
  %kr = moe.rope %k, %table : tensor<?x4xf32>, tensor<?x4xf32>
  %qn = moe.head_norm %qr head_dim 4 eps 1.0e-5 : tensor<?x8xf32>
  %kn = moe.head_norm %kr head_dim 4 eps 1.0e-5 : tensor<?x4xf32>
  moe.append @layers.0.kv, %kn, %v, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %o = moe.attention @layers.0.kv, %qn, %p, %s : tensor<?x8xf32>, tensor<?xi32>
  return %o : tensor<?x8xf32>
}

// -----

// Without RoPE, with a temperature.
// CHECK-LABEL: func.func @temperature
// CHECK: moe.attention_block @kv, %{{.*}}, %{{.*}}, %{{.*}} {temperature_floor = 1.600000e+01 : f32, temperature_scale = 1.000000e-01 : f32} : tensor<?x16xf32>
// CHECK-NEXT: return
moe.weight @norm : tensor<8xf32> from [#moe.source<"n", [0], [8]>]
moe.weight @q : tensor<8x8xf32> from [#moe.source<"q", [0, 0], [8, 8]>]
moe.weight @k : tensor<4x8xf32> from [#moe.source<"k", [0, 0], [4, 8]>]
moe.weight @v : tensor<4x8xf32> from [#moe.source<"v", [0, 0], [4, 8]>]
moe.cache @kv heads 1 head_dim 4 : f32
func.func @temperature(%h: tensor<?x8xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>)
    -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wq = moe.load_weight @q : tensor<8x8xf32>
  %wk = moe.load_weight @k : tensor<4x8xf32>
  %wv = moe.load_weight @v : tensor<4x8xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %v = moe.linear %n, %wv : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %k = moe.linear %n, %wk : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  moe.append @kv, %k, %v, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %q = moe.linear %n, %wq : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %qt = moe.temperature %q, %p scale 0.1 floor 16.0 : tensor<?x8xf32>, tensor<?xi32>
  %o = moe.attention @kv, %qt, %p, %s : tensor<?x8xf32>, tensor<?xi32>
  return %o : tensor<?x8xf32>
}

// -----

moe.weight @norm : tensor<8xf32> from [#moe.source<"n", [0], [8]>]
moe.weight @q : tensor<8x8xf32> from [#moe.source<"q", [0, 0], [8, 8]>]
moe.weight @k : tensor<4x8xf32> from [#moe.source<"k", [0, 0], [4, 8]>]
moe.weight @v : tensor<4x8xf32> from [#moe.source<"v", [0, 0], [4, 8]>]
moe.weight @k16 : tensor<4x8xf16> from [#moe.source<"k16", [0, 0], [4, 8]>]
moe.cache @kv heads 1 head_dim 4 : f32
moe.cache @other heads 1 head_dim 4 : f32
func.func private @unknown()

// The norm has another user.
// CHECK-LABEL: func.func @norm_used
// CHECK-NOT: moe.qkv
// CHECK: moe.attention @
func.func @norm_used(%h: tensor<?x8xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>)
    -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wq = moe.load_weight @q : tensor<8x8xf32>
  %wk = moe.load_weight @k : tensor<4x8xf32>
  %wv = moe.load_weight @v : tensor<4x8xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %q = moe.linear %n, %wq : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %k = moe.linear %n, %wk : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %v = moe.linear %n, %wv : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  moe.append @kv, %k, %v, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %o = moe.attention @kv, %q, %p, %s : tensor<?x8xf32>, tensor<?xi32>
  return %o, %n : tensor<?x8xf32>, tensor<?x8xf32>
}

// The keys have another user.
// CHECK-LABEL: func.func @keys_used
// CHECK-NOT: moe.qkv
// CHECK: moe.attention @
func.func @keys_used(%h: tensor<?x8xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>)
    -> (tensor<?x8xf32>, tensor<?x4xf32>) {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wq = moe.load_weight @q : tensor<8x8xf32>
  %wk = moe.load_weight @k : tensor<4x8xf32>
  %wv = moe.load_weight @v : tensor<4x8xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %q = moe.linear %n, %wq : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %k = moe.linear %n, %wk : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %v = moe.linear %n, %wv : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  moe.append @kv, %k, %v, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %o = moe.attention @kv, %q, %p, %s : tensor<?x8xf32>, tensor<?xi32>
  return %o, %k : tensor<?x8xf32>, tensor<?x4xf32>
}

// The weights differ in element type.
// CHECK-LABEL: func.func @mixed_types
// CHECK-NOT: moe.qkv
// CHECK: moe.attention @
func.func @mixed_types(%h: tensor<?x8xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>)
    -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wq = moe.load_weight @q : tensor<8x8xf32>
  %wk = moe.load_weight @k16 : tensor<4x8xf16>
  %wv = moe.load_weight @v : tensor<4x8xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %q = moe.linear %n, %wq : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %k = moe.linear %n, %wk : tensor<?x8xf32>, tensor<4x8xf16> -> tensor<?x4xf32>
  %v = moe.linear %n, %wv : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  moe.append @kv, %k, %v, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %o = moe.attention @kv, %q, %p, %s : tensor<?x8xf32>, tensor<?xi32>
  return %o : tensor<?x8xf32>
}

// Only q is rotated.
// CHECK-LABEL: func.func @half_rope
// CHECK-NOT: moe.qkv
// CHECK: moe.attention @
func.func @half_rope(%h: tensor<?x8xf32>, %table: tensor<?x4xf32>, %p: tensor<?xi32>,
                     %s: tensor<?xi32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wq = moe.load_weight @q : tensor<8x8xf32>
  %wk = moe.load_weight @k : tensor<4x8xf32>
  %wv = moe.load_weight @v : tensor<4x8xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %q = moe.linear %n, %wq : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %k = moe.linear %n, %wk : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %v = moe.linear %n, %wv : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %qr = moe.rope %q, %table : tensor<?x8xf32>, tensor<?x4xf32>
  moe.append @kv, %k, %v, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %o = moe.attention @kv, %qr, %p, %s : tensor<?x8xf32>, tensor<?xi32>
  return %o : tensor<?x8xf32>
}

// The norm comes before RoPE, which attention_block cannot say.
// CHECK-LABEL: func.func @norm_before_rope
// CHECK-NOT: moe.qkv
// CHECK: moe.attention @
func.func @norm_before_rope(%h: tensor<?x8xf32>, %table: tensor<?x4xf32>, %p: tensor<?xi32>,
                            %s: tensor<?xi32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wq = moe.load_weight @q : tensor<8x8xf32>
  %wk = moe.load_weight @k : tensor<4x8xf32>
  %wv = moe.load_weight @v : tensor<4x8xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %q = moe.linear %n, %wq : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %k = moe.linear %n, %wk : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %v = moe.linear %n, %wv : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %qn = moe.head_norm %q head_dim 4 eps 1.0e-5 : tensor<?x8xf32>
  %kn = moe.head_norm %k head_dim 4 eps 1.0e-5 : tensor<?x4xf32>
  %qr = moe.rope %qn, %table : tensor<?x8xf32>, tensor<?x4xf32>
  %kr = moe.rope %kn, %table : tensor<?x4xf32>, tensor<?x4xf32>
  moe.append @kv, %kr, %v, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %o = moe.attention @kv, %qr, %p, %s : tensor<?x8xf32>, tensor<?xi32>
  return %o : tensor<?x8xf32>
}

// Something unknown between the append and the attention may use the cache, another cache is no
// matter.
// CHECK-LABEL: func.func @in_between
// CHECK: moe.append @other
// CHECK: moe.attention_block @kv
// CHECK-NOT: moe.qkv
// CHECK: moe.attention @
func.func @in_between(%h: tensor<?x8xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>)
    -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wq = moe.load_weight @q : tensor<8x8xf32>
  %wk = moe.load_weight @k : tensor<4x8xf32>
  %wv = moe.load_weight @v : tensor<4x8xf32>
  %n0 = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %q0 = moe.linear %n0, %wq : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %k0 = moe.linear %n0, %wk : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %v0 = moe.linear %n0, %wv : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  moe.append @kv, %k0, %v0, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %k1 = moe.linear %h, %wk : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  moe.append @other, %k1, %k1, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %o0 = moe.attention @kv, %q0, %p, %s : tensor<?x8xf32>, tensor<?xi32>
  %n2 = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %q2 = moe.linear %n2, %wq : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %k2 = moe.linear %n2, %wk : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %v2 = moe.linear %n2, %wv : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  moe.append @kv, %k2, %v2, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  func.call @unknown() : () -> ()
  %o2 = moe.attention @kv, %q2, %p, %s : tensor<?x8xf32>, tensor<?xi32>
  return %o0, %o2 : tensor<?x8xf32>, tensor<?x8xf32>
}

// The attention is of other tokens than the append.
// CHECK-LABEL: func.func @other_tokens
// CHECK-NOT: moe.qkv
// CHECK: moe.attention @
func.func @other_tokens(%h: tensor<?x8xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>,
                        %p2: tensor<?xi32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wq = moe.load_weight @q : tensor<8x8xf32>
  %wk = moe.load_weight @k : tensor<4x8xf32>
  %wv = moe.load_weight @v : tensor<4x8xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %q = moe.linear %n, %wq : tensor<?x8xf32>, tensor<8x8xf32> -> tensor<?x8xf32>
  %k = moe.linear %n, %wk : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %v = moe.linear %n, %wv : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  moe.append @kv, %k, %v, %p, %s : tensor<?x4xf32>, tensor<?xi32>
  %o = moe.attention @kv, %q, %p2, %s : tensor<?x8xf32>, tensor<?xi32>
  return %o : tensor<?x8xf32>
}
