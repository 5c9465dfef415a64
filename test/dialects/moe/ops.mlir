// RUN: moe-opt %s | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s

// CHECK: moe.weight @plain : tensor<4x8xf32> from [#moe.source<"a.weight", [0, 0], [4, 8]>]
moe.weight @plain : tensor<4x8xf32> from [#moe.source<"a.weight", [0, 0], [4, 8]>]

// CHECK: moe.weight @gate : tensor<2x128x256xbf16> from
// CHECK-SAME: [#moe.source<"experts.gate_up_proj", [0, 0, 128], [2, 256, 128], true>]
moe.weight @gate : tensor<2x128x256xbf16> from
    [#moe.source<"experts.gate_up_proj", [0, 0, 128], [2, 256, 128], true>]

// All experts of a layer, of one tensor each: what is printed does not grow with their number.
// CHECK: moe.weight @stack : tensor<128x64x256xbf16> from
// CHECK-SAME: [#moe.source<"experts.{}.gate_proj.weight", [0, 0, 0], [128, 32, 256]>,
// CHECK-SAME: #moe.source<"experts.{}.up_proj.weight", [0, 0, 0], [128, 32, 256]>] along 1 encoded #moe.format
moe.weight @stack : tensor<128x64x256xbf16> from
    [#moe.source<"experts.{}.gate_proj.weight", [0, 0, 0], [128, 32, 256]>,
     #moe.source<"experts.{}.up_proj.weight", [0, 0, 0], [128, 32, 256]>] along 1
    encoded #moe.format<i4 group 128 scale bf16>

// CHECK: moe.weight @qkv : tensor<512x256xbf16> from [#moe.source<"q", [0, 0], [256, 256]>,
// CHECK-SAME: #moe.source<"k", [0, 0], [128, 256]>, #moe.source<"v", [0, 0], [128, 256]>]
// CHECK-SAME: packed #moe.packing<heads, bf16, 64>
moe.weight @qkv : tensor<512x256xbf16> from
    [#moe.source<"q", [0, 0], [256, 256]>, #moe.source<"k", [0, 0], [128, 256]>,
     #moe.source<"v", [0, 0], [128, 256]>] packed #moe.packing<heads, bf16, 64>

// CHECK: packed #moe.packing<rows, f32>
moe.weight @rows : tensor<256xbf16> from [#moe.source<"norm", [0], [256]>]
    packed #moe.packing<rows, f32>

// CHECK: packed #moe.packing<gate_up, f32>
moe.weight @gate_up : tensor<64x256xbf16> from [#moe.source<"gate_up", [0, 0], [64, 256]>]
    packed #moe.packing<gate_up, f32>

// CHECK: packed #moe.packing<matrix, bf16> {note = "kept"}
moe.weight @panel : tensor<64x256xbf16> from [#moe.source<"o", [0, 0], [64, 256]>]
    packed #moe.packing<matrix, bf16> {note = "kept"}

// CHECK: moe.weight @codes
// CHECK-SAME: encoded #moe.format<i4 group 128 scale bf16> packed #moe.packing<matrix, bf16>
moe.weight @codes : tensor<64x256xbf16> from [#moe.source<"o", [0, 0], [64, 256]>]
    encoded #moe.format<i4 group 128 scale bf16> packed #moe.packing<matrix, bf16>

// CHECK: moe.weight @fp8 : tensor<64x256xbf16> from [#moe.source<"o", [0, 0], [64, 256]>]
// CHECK-SAME: encoded #moe.format<f8E4M3FN group 256 scale f32>
moe.weight @fp8 : tensor<64x256xbf16> from [#moe.source<"o", [0, 0], [64, 256]>]
    encoded #moe.format<f8E4M3FN group 256 scale f32>

// CHECK: packed #moe.packing<rows, i8 group 256 scale f32>
moe.weight @int8 : tensor<64x256xbf16> from [#moe.source<"o", [0, 0], [64, 256]>]
    packed #moe.packing<rows, i8 group 256 scale f32>

// CHECK: encoded #moe.format<i4 group 32 scale f16 zeros> packed #moe.packing<heads, i4 group 32 scale f16 zeros, 64>
moe.weight @zeros : tensor<64x256xbf16> from [#moe.source<"o", [0, 0], [64, 256]>]
    encoded #moe.format<i4 group 32 scale f16 zeros>
    packed #moe.packing<heads, i4 group 32 scale f16 zeros, 64>

// CHECK: attributes.formats = [#moe.format<f32>, #moe.format<bf16>, #moe.format<i4 group 128 scale bf16>]
moe.weight @attributes : tensor<1x1xf32> from [#moe.source<"o", [0, 0], [1, 1]>]
    {attributes.formats = [#moe.format<f32>, #moe.format<bf16>, #moe.format<i4 group 128 scale bf16>]}

// CHECK: moe.cache @chunked heads 2 head_dim 64 chunk 128 : bf16
moe.cache @chunked heads 2 head_dim 64 chunk 128 : bf16
// CHECK: moe.cache @full heads 2 head_dim 64 : f32
moe.cache @full heads 2 head_dim 64 : f32
// CHECK: moe.cache @kept_as_codes heads 2 head_dim 64 : i8
moe.cache @kept_as_codes heads 2 head_dim 64 : i8

// CHECK-LABEL: @load_weight
func.func @load_weight() -> tensor<4x8xf32> {
  // CHECK: moe.load_weight @plain : tensor<4x8xf32>
  %w = moe.load_weight @plain : tensor<4x8xf32>
  return %w : tensor<4x8xf32>
}

// CHECK-LABEL: @embed
func.func @embed(%tokens: tensor<?xi32>, %table: tensor<4096x256xbf16>) -> tensor<?x256xf32> {
  // CHECK: moe.embed %{{.*}}, %{{.*}} : tensor<?xi32>, tensor<4096x256xbf16> -> tensor<?x256xf32>
  %h = moe.embed %tokens, %table : tensor<?xi32>, tensor<4096x256xbf16> -> tensor<?x256xf32>
  return %h : tensor<?x256xf32>
}

// CHECK-LABEL: @rms_norm
func.func @rms_norm(%x: tensor<?x256xf32>, %w: tensor<256xbf16>) -> tensor<?x256xf32> {
  // CHECK: moe.rms_norm %{{.*}}, %{{.*}} eps 1.250000e-01 : tensor<?x256xf32>, tensor<256xbf16>
  %y = moe.rms_norm %x, %w eps 0.125 : tensor<?x256xf32>, tensor<256xbf16>
  return %y : tensor<?x256xf32>
}

// CHECK-LABEL: @linear
func.func @linear(%x: tensor<?x256xf32>, %w: tensor<128x256xbf16>) -> tensor<?x128xf32> {
  // CHECK: moe.linear %{{.*}}, %{{.*}} : tensor<?x256xf32>, tensor<128x256xbf16> -> tensor<?x128xf32>
  %q = moe.linear %x, %w : tensor<?x256xf32>, tensor<128x256xbf16> -> tensor<?x128xf32>
  return %q : tensor<?x128xf32>
}

// CHECK-LABEL: @rope
func.func @rope(%positions: tensor<?xi32>, %q: tensor<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK: moe.rope_table %{{.*}} [1.000000e+00, 1.250000e-01] : tensor<?xi32> -> tensor<?x4xf32>
  %t = moe.rope_table %positions [1.0, 0.125] : tensor<?xi32> -> tensor<?x4xf32>
  // CHECK: moe.rope %{{.*}}, %{{.*}} : tensor<?x8xf32>, tensor<?x4xf32>
  %r = moe.rope %q, %t : tensor<?x8xf32>, tensor<?x4xf32>
  return %r : tensor<?x8xf32>
}

// CHECK-LABEL: @head_norm
func.func @head_norm(%q: tensor<?x256xf32>) -> tensor<?x256xf32> {
  // CHECK: moe.head_norm %{{.*}} head_dim 64 eps 1.250000e-01 : tensor<?x256xf32>
  %n = moe.head_norm %q head_dim 64 eps 0.125 : tensor<?x256xf32>
  return %n : tensor<?x256xf32>
}

// CHECK-LABEL: @temperature
func.func @temperature(%q: tensor<?x256xf32>, %positions: tensor<?xi32>) -> tensor<?x256xf32> {
  // CHECK: moe.temperature %arg0, %arg1 scale 1.250000e-01 floor 8.192000e+03
  // CHECK-SAME: : tensor<?x256xf32>, tensor<?xi32>
  %s = moe.temperature %q, %positions scale 0.125 floor 8192.0 : tensor<?x256xf32>, tensor<?xi32>
  return %s : tensor<?x256xf32>
}

// CHECK-LABEL: @attention
func.func @attention(%q: tensor<?x256xf32>, %k: tensor<?x128xf32>, %v: tensor<?x128xf32>,
                     %positions: tensor<?xi32>, %sequences: tensor<?xi32>) -> tensor<?x256xf32> {
  // CHECK: moe.append @chunked, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} : tensor<?x128xf32>, tensor<?xi32>
  moe.append @chunked, %k, %v, %positions, %sequences : tensor<?x128xf32>, tensor<?xi32>
  // CHECK: moe.attention @chunked, %{{.*}}, %{{.*}}, %{{.*}} : tensor<?x256xf32>, tensor<?xi32>
  %o = moe.attention @chunked, %q, %positions, %sequences : tensor<?x256xf32>, tensor<?xi32>
  return %o : tensor<?x256xf32>
}

// CHECK-LABEL: @elementwise
func.func @elementwise(%a: tensor<?x128xf32>, %b: tensor<?x128xf32>) -> tensor<?x128xf32> {
  // CHECK: %[[Y:.*]] = moe.swiglu %{{.*}}, %{{.*}} : tensor<?x128xf32>
  %y = moe.swiglu %a, %b : tensor<?x128xf32>
  // CHECK: moe.add %[[Y]], %{{.*}} : tensor<?x128xf32>
  %z = moe.add %y, %b : tensor<?x128xf32>
  return %z : tensor<?x128xf32>
}

// CHECK-LABEL: @route
func.func @route(%l: tensor<?x16xf32>) -> (tensor<?x2xi32>, tensor<?x2xf32>) {
  // CHECK: moe.route %{{.*}} top 2 : tensor<?x16xf32> -> tensor<?x2xi32>, tensor<?x2xf32>
  %e, %s = moe.route %l top 2 : tensor<?x16xf32> -> tensor<?x2xi32>, tensor<?x2xf32>
  return %e, %s : tensor<?x2xi32>, tensor<?x2xf32>
}

// CHECK-LABEL: @experts
func.func @experts(%x: tensor<?x256xf32>, %e: tensor<?x1xi32>, %s: tensor<?x1xf32>,
                   %gate: tensor<8x128x256xbf16>, %up: tensor<8x128x256xbf16>,
                   %down: tensor<8x256x128xbf16>) -> tensor<?x256xf32> {
  // CHECK: moe.experts %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} : tensor<?x256xf32>,
  // CHECK-SAME: tensor<?x1xi32>, tensor<?x1xf32>, tensor<8x128x256xbf16>, tensor<8x128x256xbf16>,
  // CHECK-SAME: tensor<8x256x128xbf16>
  %y = moe.experts %x, %e, %s, %gate, %up, %down : tensor<?x256xf32>, tensor<?x1xi32>,
      tensor<?x1xf32>, tensor<8x128x256xbf16>, tensor<8x128x256xbf16>, tensor<8x256x128xbf16>
  return %y : tensor<?x256xf32>
}

// CHECK-LABEL: @select_rows
func.func @select_rows(%h: tensor<?x256xf32>, %rows: tensor<3xi32>) -> tensor<3x256xf32> {
  // CHECK: moe.select_rows %{{.*}}, %{{.*}} : tensor<?x256xf32>, tensor<3xi32> -> tensor<3x256xf32>
  %r = moe.select_rows %h, %rows : tensor<?x256xf32>, tensor<3xi32> -> tensor<3x256xf32>
  return %r : tensor<3x256xf32>
}

// CHECK-LABEL: @qkv_block
func.func @qkv_block(%h: tensor<?x256xf32>, %norm: tensor<256xbf16>, %w: tensor<512x256xbf16>)
    -> tensor<?x512xf32> {
  // CHECK: moe.qkv %{{.*}}, %{{.*}}, %{{.*}} eps 1.250000e-01
  // CHECK-SAME: : tensor<?x256xf32>, tensor<256xbf16>, tensor<512x256xbf16> -> tensor<?x512xf32>
  %qkv = moe.qkv %h, %norm, %w eps 0.125
      : tensor<?x256xf32>, tensor<256xbf16>, tensor<512x256xbf16> -> tensor<?x512xf32>
  return %qkv : tensor<?x512xf32>
}

// CHECK-LABEL: @attention_blocks
func.func @attention_blocks(%qkv: tensor<?x512xf32>, %t: tensor<?x64xf32>,
                            %positions: tensor<?xi32>, %sequences: tensor<?xi32>) {
  // CHECK: moe.attention_block @chunked, %{{.*}}, %{{.*}}, %{{.*}} rope %{{.*}} : tensor<?x64xf32>
  // CHECK-SAME: {qk_norm = 1.250000e-01 : f32} : tensor<?x512xf32>, tensor<?xi32> -> tensor<?x256xf32>
  %o = moe.attention_block @chunked, %qkv, %positions, %sequences rope %t : tensor<?x64xf32>
      {qk_norm = 0.125 : f32} : tensor<?x512xf32>, tensor<?xi32> -> tensor<?x256xf32>
  // CHECK: moe.attention_block @full, %{{.*}}, %{{.*}}, %arg3
  // CHECK-SAME: {temperature_floor = 8.192000e+03 : f32, temperature_scale = 1.250000e-01 : f32} :
  %p = moe.attention_block @full, %qkv, %positions, %sequences
      {temperature_scale = 0.125 : f32, temperature_floor = 8192.0 : f32}
      : tensor<?x512xf32>, tensor<?xi32> -> tensor<?x256xf32>
  // CHECK: moe.attention_block @full, %{{.*}}, %{{.*}}, %arg3 : tensor<?x512xf32>
  %n = moe.attention_block @full, %qkv, %positions, %sequences
      : tensor<?x512xf32>, tensor<?xi32> -> tensor<?x256xf32>
  return
}

// CHECK-LABEL: @linear_residual
func.func @linear_residual(%o: tensor<?x128xf32>, %w: tensor<256x128xbf16>, %h: tensor<?x256xf32>)
    -> tensor<?x256xf32> {
  // CHECK: moe.linear_residual %arg0, %arg1, %arg2
  // CHECK-SAME: : tensor<?x128xf32>, tensor<256x128xbf16>, tensor<?x256xf32>
  %h1 = moe.linear_residual %o, %w, %h
      : tensor<?x128xf32>, tensor<256x128xbf16>, tensor<?x256xf32>
  return %h1 : tensor<?x256xf32>
}

// CHECK-LABEL: @moe_block
func.func @moe_block(%h: tensor<?x256xf32>, %norm: tensor<256xbf16>, %router: tensor<8x256xbf16>,
                     %sgu: tensor<256x256xf32>, %gu: tensor<8x256x256xbf16>,
                     %sd: tensor<256x128xf16>, %d: tensor<8x256x128xbf16>) -> tensor<?x256xf32> {
  // CHECK: moe.moe_block %arg0, %arg1, %arg2, %arg3, %arg4, %arg5, %arg6 top 1 eps 1.250000e-01
  // CHECK-SAME: : tensor<?x256xf32>, tensor<256xbf16>, tensor<8x256xbf16>, tensor<256x256xf32>,
  // CHECK-SAME: tensor<8x256x256xbf16>, tensor<256x128xf16>, tensor<8x256x128xbf16>
  %h1 = moe.moe_block %h, %norm, %router, %sgu, %gu, %sd, %d top 1 eps 0.125
      : tensor<?x256xf32>, tensor<256xbf16>, tensor<8x256xbf16>, tensor<256x256xf32>,
        tensor<8x256x256xbf16>, tensor<256x128xf16>, tensor<8x256x128xbf16>
  return %h1 : tensor<?x256xf32>
}

// CHECK-LABEL: @mlp_block
func.func @mlp_block(%h: tensor<?x256xf32>, %norm: tensor<256xbf16>, %gate_up: tensor<512x256xbf16>,
                     %down: tensor<256x256xbf16>) -> tensor<?x256xf32> {
  // CHECK: moe.mlp_block %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} eps 1.250000e-01
  // CHECK-SAME: : tensor<?x256xf32>, tensor<256xbf16>, tensor<512x256xbf16>, tensor<256x256xbf16>
  %h1 = moe.mlp_block %h, %norm, %gate_up, %down eps 0.125
      : tensor<?x256xf32>, tensor<256xbf16>, tensor<512x256xbf16>, tensor<256x256xbf16>
  return %h1 : tensor<?x256xf32>
}

// CHECK-LABEL: @head
func.func @head(%h: tensor<?x256xf32>, %rows: tensor<?xi32>, %norm: tensor<256xbf16>,
                %w: tensor<4096x256xbf16>) -> tensor<?x4096xf32> {
  // CHECK: moe.head %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} eps 1.250000e-01 : tensor<?x256xf32>,
  // CHECK-SAME: tensor<?xi32>, tensor<256xbf16>, tensor<4096x256xbf16> -> tensor<?x4096xf32>
  %l = moe.head %h, %rows, %norm, %w eps 0.125 : tensor<?x256xf32>, tensor<?xi32>,
      tensor<256xbf16>, tensor<4096x256xbf16> -> tensor<?x4096xf32>
  return %l : tensor<?x4096xf32>
}

// CHECK-LABEL: @final_norm
func.func @final_norm(%h: tensor<?x256xf32>, %rows: tensor<?xi32>, %norm: tensor<256xbf16>)
    -> tensor<?x256xf32> {
  // CHECK: moe.final_norm %{{.*}}, %{{.*}}, %{{.*}} eps 1.250000e-01 : tensor<?x256xf32>,
  // CHECK-SAME: tensor<?xi32>, tensor<256xbf16> -> tensor<?x256xf32>
  %n = moe.final_norm %h, %rows, %norm eps 0.125 : tensor<?x256xf32>, tensor<?xi32>,
      tensor<256xbf16> -> tensor<?x256xf32>
  return %n : tensor<?x256xf32>
}

// A dynamic size is equal to any.
// CHECK-LABEL: @dynamic
func.func @dynamic(%x: tensor<?x?xf32>, %w: tensor<?x?xbf16>, %n: tensor<?xbf16>) -> tensor<?x4xf32> {
  %y = moe.rms_norm %x, %n eps 0.125 : tensor<?x?xf32>, tensor<?xbf16>
  // CHECK: moe.linear %{{.*}}, %{{.*}} : tensor<?x?xf32>, tensor<?x?xbf16> -> tensor<?x4xf32>
  %z = moe.linear %y, %w : tensor<?x?xf32>, tensor<?x?xbf16> -> tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}
