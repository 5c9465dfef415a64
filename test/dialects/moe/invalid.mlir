// RUN: moe-opt %s -split-input-file -verify-diagnostics

// One rejected case for each constraint of each op, named after it.

// expected-error @+1 {{has sources of 24 elements, expected 32 as in 'tensor<4x8xf32>'}}
moe.weight @weight_c1 : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [3, 8]>]

// -----

// expected-error @+1 {{has type 'tensor<?x8xf32>', expected a static shape of f32, f16 or bf16}}
moe.weight @weight_c2 : tensor<?x8xf32> from [#moe.source<"w", [0, 0], [4, 8]>]

// -----

// expected-error @+1 {{has type 'tensor<4x8xi8>', expected a static shape of f32, f16 or bf16}}
moe.weight @weight_c2 : tensor<4x8xi8> from [#moe.source<"w", [0, 0], [4, 8]>]

// -----

// expected-error @+1 {{joins its sources along dimension 2, expected one of the 2 of 'tensor<4x8xf32>'}}
moe.weight @weight_c3 : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [4, 8]>] along 2

// -----

// expected-error @+1 {{joins its sources along dimension -1, expected one of the 2}}
moe.weight @weight_c3 : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [4, 8]>] along -1

// -----

// expected-error @+1 {{joins source #moe.source<"v", [0, 0], [2, 9]> of 18 elements along dimension 1, expected a multiple of 4 as in 'tensor<4x8xf32>'}}
moe.weight @weight_c3 : tensor<4x8xf32> from [#moe.source<"v", [0, 0], [2, 9]>, #moe.source<"w", [0, 0], [2, 7]>] along 1

// -----

// expected-error @+1 {{has sources of 2^63 or more elements, expected 32}}
moe.weight @weight_c1 : tensor<4x8xf32> from [#moe.source<"v", [0], [9223372036854775807]>, #moe.source<"w", [0], [1]>]

// -----

// expected-error @+1 {{source of tensor "w" begins at [0] and has size [4, 8], expected an offset and a size for each dimension, none negative, and fewer than 2^63 elements}}
moe.weight @source_c1 : tensor<4x8xf32> from [#moe.source<"w", [0], [4, 8]>]

// -----

// expected-error @+1 {{begins at [0, -1] and has size [4, 8], expected}}
moe.weight @source_c1 : tensor<4x8xf32> from [#moe.source<"w", [0, -1], [4, 8]>]

// -----

// expected-error @+1 {{has size [4, -8], expected}}
moe.weight @source_c1 : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [4, -8]>]

// -----

// expected-error @+1 {{has size [4294967296, 2147483648], expected an offset}}
moe.weight @source_c1 : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [4294967296, 2147483648]>]

// -----

// expected-error @+1 {{begins at [9223372036854775807] and has size [1], expected an offset}}
moe.weight @source_c1 : tensor<1xf32> from [#moe.source<"w", [9223372036854775807], [1]>]

// -----

// expected-error @+1 {{source of tensor "{}.{}" has 2 dimensions, expected a name with at most one {}, whose number is the first dimension}}
moe.weight @source_c2 : tensor<4x8xf32> from [#moe.source<"{}.{}", [0, 0], [4, 8]>]

// -----

// expected-error @+1 {{source of tensor "w" transposes 1 dimensions, expected two or more}}
moe.weight @source_c3 : tensor<8xf32> from [#moe.source<"w", [0], [8], true>]

// -----

// expected-error @+1 {{source of tensor "w.{}" transposes 1 dimensions, expected two or more}}
moe.weight @source_c3 : tensor<4x8xf32> from [#moe.source<"w.{}", [0, 0], [4, 8], true>]

// -----

// expected-error @+1 {{is packed as matrix, but has fewer than two dimensions}}
moe.weight @weight_c4 : tensor<8xf32> from [#moe.source<"w", [0], [8]>] packed #moe.packing<matrix, f32>

// -----

// expected-error @+1 {{is packed as gate and up, but has an odd number of rows}}
moe.weight @weight_c4 : tensor<3x8xf32> from [#moe.source<"w", [0, 0], [3, 8]>]
    packed #moe.packing<gate_up, f32>

// -----

// expected-error @+1 {{is packed by heads, but its rows are not a multiple of the head dimension}}
moe.weight @weight_c4 : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [4, 8]>]
    packed #moe.packing<heads, f32, 3>

// -----

// expected-error @+1 {{is packed in groups of 16, which do not divide its 24 columns}}
moe.weight @weight_c4 : tensor<4x24xf32> from [#moe.source<"w", [0, 0], [4, 24]>]
    packed #moe.packing<matrix, i4 group 16 scale f16>

// -----

// expected-error @+1 {{is packed as f16, expected f32, bf16 or codes}}
moe.weight @weight_c4 : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [4, 8]>]
    packed #moe.packing<matrix, f16>

// -----

// expected-error @+1 {{stores elements of 'i16', expected f32, f16, bf16, f8E4M3FN, i8 or i4}}
#element = #moe.format<i16>

// -----

// expected-error @+1 {{stores elements of 'si8', expected}}
#signed = #moe.format<si8 group 8 scale f16>

// -----

// expected-error @+1 {{stores 'i4' with group 0, expected a positive group and a scale for f8E4M3FN, i8 and i4, and neither for other elements}}
#codes_without_group = #moe.format<i4>

// -----

// expected-error @+1 {{stores 'i8' with group -2, expected a positive group}}
#negative_group = #moe.format<i8 group -2 scale f16>

// -----

// expected-error @+1 {{stores 'bf16' with group 32, expected a positive group}}
#group_without_codes = #moe.format<bf16 group 32 scale f16>

// -----

// expected-error @+1 {{has scales of 'i8', expected f32, f16 or bf16}}
#scale = #moe.format<i4 group 32 scale i8>

// -----

// expected-error @+1 {{has zeros for 'i8', expected i4}}
#zeros = #moe.format<i8 group 32 scale f16 zeros>

// -----

// expected-error @+1 {{expected 'scale'}}
#no_scale = #moe.format<i4 group 32>

// -----

// expected-error @+1 {{has zeros for 'f8E4M3FN', expected i4}}
#packing = #moe.packing<matrix, f8E4M3FN group 32 scale f32 zeros>

// -----

// expected-error @+1 {{is encoded as #moe.format<bf16>, expected codes}}
moe.weight @weight_c5 : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [4, 8]>]
    encoded #moe.format<bf16>

// -----

// expected-error @+1 {{is encoded in groups of 16, which do not divide the last dimension of 'tensor<4x24xf32>'}}
moe.weight @weight_c5 : tensor<4x24xf32> from [#moe.source<"w", [0, 0], [4, 24]>]
    encoded #moe.format<i4 group 16 scale bf16>

// -----

// expected-error @+1 {{has 0 as heads, expected a positive number}}
moe.cache @cache_c1 heads 0 head_dim 64 : bf16

// -----

// expected-error @+1 {{has -1 as head_dim, expected a positive number}}
moe.cache @cache_c1 heads 2 head_dim -1 : bf16

// -----

// expected-error @+1 {{has 0 as chunk, expected a positive number}}
moe.cache @cache_c1 heads 2 head_dim 64 chunk 0 : bf16

// -----

// expected-error @+1 {{keeps 'i4', expected f32, bf16, f16 or i8}}
moe.cache @cache_c2 heads 2 head_dim 64 : i4

// -----

// expected-error @+1 {{keeps 'index', expected f32, bf16, f16 or i8}}
moe.cache @cache_c2 heads 2 head_dim 64 : index

// -----

func.func @load_weight_c1() {
  // expected-error @+1 {{refers to @nowhere, which is not defined}}
  %w = moe.load_weight @nowhere : tensor<4x8xf32>
  return
}

// -----

// expected-note @+1 {{it is a moe.cache}}
moe.cache @kv heads 2 head_dim 64 : bf16
func.func @load_weight_c1() {
  // expected-error @+1 {{refers to @kv, expected a moe.weight}}
  %w = moe.load_weight @kv : tensor<4x8xf32>
  return
}

// -----

// expected-note @+1 {{it is 'tensor<4x8xf32>'}}
moe.weight @w : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [4, 8]>]
func.func @load_weight_c1() {
  // expected-error @+1 {{has type 'tensor<8x4xf32>', expected that of @w}}
  %w = moe.load_weight @w : tensor<8x4xf32>
  return
}

// -----

func.func @embed_c1(%tokens: tensor<?xi32>, %table: tensor<9x8xf32>) {
  // expected-error @+1 {{has 4 as dim 1 of result, expected 8, dim 1 of table}}
  %h = moe.embed %tokens, %table : tensor<?xi32>, tensor<9x8xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @embed_c1(%tokens: tensor<2xi32>, %table: tensor<9x8xf32>) {
  // expected-error @+1 {{has 3 as dim 0 of result, expected 2, dim 0 of tokens}}
  %h = moe.embed %tokens, %table : tensor<2xi32>, tensor<9x8xf32> -> tensor<3x8xf32>
  return
}

// -----

func.func @rms_norm_c1(%x: tensor<?x8xf32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of weight, expected 8, dim 1 of x}}
  %y = moe.rms_norm %x, %w eps 1.0e-5 : tensor<?x8xf32>, tensor<4xf32>
  return
}

// -----

func.func @rms_norm_c2(%x: tensor<?x8xf32>, %w: tensor<8xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %y = moe.rms_norm %x, %w eps 0.0 : tensor<?x8xf32>, tensor<8xf32>
  return
}

// -----

func.func @linear_c1(%x: tensor<?x8xf32>, %w: tensor<4x6xf32>) {
  // expected-error @+1 {{has 6 as dim 1 of weight, expected 8, dim 1 of x}}
  %y = moe.linear %x, %w : tensor<?x8xf32>, tensor<4x6xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @linear_c1(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of result, expected 4, dim 0 of weight}}
  %y = moe.linear %x, %w : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x8xf32>
  return
}

// -----

func.func @rope_table_c1(%positions: tensor<?xi32>) {
  // expected-error @+1 {{has 2 as dim 1 of result, expected 4, two for each frequency}}
  %t = moe.rope_table %positions [1.0, 0.1] : tensor<?xi32> -> tensor<?x2xf32>
  return
}

// -----

func.func @rope_c1(%x: tensor<?x6xf32>, %t: tensor<?x4xf32>) {
  // expected-error @+1 {{has 6 as dim 1 of x, expected a multiple of dim 1 of table, 4}}
  %r = moe.rope %x, %t : tensor<?x6xf32>, tensor<?x4xf32>
  return
}

// -----

func.func @rope_c1(%x: tensor<?x6xf32>, %t: tensor<?x3xf32>) {
  // expected-error @+1 {{has 3 as dim 1 of table, expected an even number}}
  %r = moe.rope %x, %t : tensor<?x6xf32>, tensor<?x3xf32>
  return
}

// -----

func.func @rope_c2(%x: tensor<2x8xf32>, %t: tensor<3x4xf32>) {
  // expected-error @+1 {{has 3 as dim 0 of table, expected 2, dim 0 of x}}
  %r = moe.rope %x, %t : tensor<2x8xf32>, tensor<3x4xf32>
  return
}

// -----

func.func @head_norm_c1(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of x, expected a multiple of head_dim, 3}}
  %y = moe.head_norm %x head_dim 3 eps 1.0e-5 : tensor<?x8xf32>
  return
}

// -----

func.func @head_norm_c1(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{has 0 as head_dim, expected more}}
  %y = moe.head_norm %x head_dim 0 eps 1.0e-5 : tensor<?x8xf32>
  return
}

// -----

func.func @head_norm_c2(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{has -1.000000e+00 as eps, expected a positive number}}
  %y = moe.head_norm %x head_dim 4 eps -1.0 : tensor<?x8xf32>
  return
}

// -----

func.func @temperature_c1(%x: tensor<?x8xf32>, %positions: tensor<?xi32>) {
  // expected-error @+1 {{has 0.000000e+00 as floor, expected a positive number}}
  %y = moe.temperature %x, %positions scale 0.1 floor 0.0 : tensor<?x8xf32>, tensor<?xi32>
  return
}

// -----

func.func @temperature_c2(%x: tensor<2x8xf32>, %positions: tensor<3xi32>) {
  // expected-error @+1 {{has 3 as dim 0 of positions, expected 2, dim 0 of x}}
  %y = moe.temperature %x, %positions scale 0.1 floor 8.0 : tensor<2x8xf32>, tensor<3xi32>
  return
}

// -----

func.func @append_c1(%k: tensor<?x8xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{refers to @nowhere, which is not defined}}
  moe.append @nowhere, %k, %k, %p, %p : tensor<?x8xf32>, tensor<?xi32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 8 : bf16
func.func @append_c1(%k: tensor<?x8xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{has 8 as dim 1 of keys, expected 16, heads times head_dim}}
  moe.append @kv, %k, %k, %p, %p : tensor<?x8xf32>, tensor<?xi32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 4 : bf16
func.func @append_c2(%k: tensor<2x8xf32>, %p: tensor<3xi32>) {
  // expected-error @+1 {{has 3 as dim 0 of positions, expected 2, dim 0 of keys}}
  moe.append @kv, %k, %k, %p, %p : tensor<2x8xf32>, tensor<3xi32>
  return
}

// -----

// expected-note @+1 {{it is a moe.weight}}
moe.weight @w : tensor<4x8xf32> from [#moe.source<"w", [0, 0], [4, 8]>]
func.func @attention_c1(%q: tensor<?x8xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{refers to @w, expected a moe.cache}}
  %o = moe.attention @w, %q, %p, %p : tensor<?x8xf32>, tensor<?xi32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 4 : bf16
func.func @attention_c1(%q: tensor<?x12xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{has 12 as dim 1 of queries, expected a multiple of heads times head_dim, 8}}
  %o = moe.attention @kv, %q, %p, %p : tensor<?x12xf32>, tensor<?xi32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 4 : bf16
func.func @attention_c2(%q: tensor<2x8xf32>, %p: tensor<3xi32>) {
  // expected-error @+1 {{has 3 as dim 0 of positions, expected 2, dim 0 of queries}}
  %o = moe.attention @kv, %q, %p, %p : tensor<2x8xf32>, tensor<3xi32>
  return
}

// -----

func.func @route_c1(%l: tensor<?x4xf32>) {
  // expected-error @+1 {{picks 5 of 4 experts}}
  %e, %s = moe.route %l top 5 : tensor<?x4xf32> -> tensor<?x5xi32>, tensor<?x5xf32>
  return
}

// -----

func.func @route_c1(%l: tensor<?x?xf32>) {
  // expected-error @+1 {{picks 0 experts}}
  %e, %s = moe.route %l top 0 : tensor<?x?xf32> -> tensor<?x0xi32>, tensor<?x0xf32>
  return
}

// -----

func.func @route_c2(%l: tensor<?x4xf32>) {
  // expected-error @+1 {{has 2 as dim 1 of scores, expected 1, the number of experts picked}}
  %e, %s = moe.route %l top 1 : tensor<?x4xf32> -> tensor<?x1xi32>, tensor<?x2xf32>
  return
}

// -----

func.func @experts_c1(%x: tensor<?x8xf32>, %e: tensor<?x1xi32>, %s: tensor<?x1xf32>,
                      %w: tensor<4x6x8xf32>, %down: tensor<4x6x8xf32>) {
  // expected-error @+1 {{has 6 as dim 1 of down, expected 8, dim 1 of x}}
  %y = moe.experts %x, %e, %s, %w, %w, %down : tensor<?x8xf32>, tensor<?x1xi32>, tensor<?x1xf32>,
      tensor<4x6x8xf32>, tensor<4x6x8xf32>, tensor<4x6x8xf32>
  return
}

// -----

func.func @select_rows_c1(%x: tensor<?x8xf32>, %rows: tensor<?xi32>) {
  // expected-error @+1 {{has 4 as dim 1 of result, expected 8, dim 1 of x}}
  %r = moe.select_rows %x, %rows : tensor<?x8xf32>, tensor<?xi32> -> tensor<?x4xf32>
  return
}

// -----

func.func @qkv_c1(%x: tensor<?x8xf32>, %norm: tensor<4xf32>, %w: tensor<16x8xf32>) {
  // expected-error @+1 {{has 4 as dim 0 of norm, expected 8, dim 1 of x}}
  %y = moe.qkv %x, %norm, %w eps 1.0e-5
      : tensor<?x8xf32>, tensor<4xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  return
}

// -----

func.func @qkv_c2(%x: tensor<?x8xf32>, %norm: tensor<8xf32>, %w: tensor<16x8xf32>) {
  // expected-error @+1 {{has -0.000000e+00 as eps, expected a positive number}}
  %y = moe.qkv %x, %norm, %w eps -0.0
      : tensor<?x8xf32>, tensor<8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  return
}

// -----

func.func @attention_block_c1(%qkv: tensor<?x16xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{refers to @nowhere, which is not defined}}
  %o = moe.attention_block @nowhere, %qkv, %p, %p
      : tensor<?x16xf32>, tensor<?xi32> -> tensor<?x8xf32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 4 : bf16
func.func @attention_block_c1(%qkv: tensor<?x20xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{has 20 as dim 1 of qkv, expected 24, the queries, keys and values of @kv}}
  %o = moe.attention_block @kv, %qkv, %p, %p : tensor<?x20xf32>, tensor<?xi32> -> tensor<?x8xf32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 4 : bf16
func.func @attention_block_c1(%qkv: tensor<?x28xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{has 12 as dim 1 of result, expected a multiple of heads times head_dim, 8}}
  %o = moe.attention_block @kv, %qkv, %p, %p : tensor<?x28xf32>, tensor<?xi32> -> tensor<?x12xf32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 4 : bf16
func.func @attention_block_c1(%qkv: tensor<?x24xf32>, %t: tensor<?x8xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{has 8 as dim 1 of table, expected 4, head_dim}}
  %o = moe.attention_block @kv, %qkv, %p, %p rope %t : tensor<?x8xf32>
      : tensor<?x24xf32>, tensor<?xi32> -> tensor<?x8xf32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 3 : bf16
func.func @attention_block_c1(%qkv: tensor<?x18xf32>, %t: tensor<?x3xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{rotates heads of 3 channels, expected an even number}}
  %o = moe.attention_block @kv, %qkv, %p, %p rope %t : tensor<?x3xf32>
      : tensor<?x18xf32>, tensor<?xi32> -> tensor<?x6xf32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 4 : bf16
func.func @attention_block_c2(%qkv: tensor<?x24xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{has only one of temperature_scale and temperature_floor, expected both or neither}}
  %o = moe.attention_block @kv, %qkv, %p, %p {temperature_scale = 0.1 : f32}
      : tensor<?x24xf32>, tensor<?xi32> -> tensor<?x8xf32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 4 : bf16
func.func @attention_block_c2(%qkv: tensor<?x24xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{has 0.000000e+00 as temperature_floor, expected a positive number}}
  %o = moe.attention_block @kv, %qkv, %p, %p
      {temperature_scale = 0.1 : f32, temperature_floor = 0.0 : f32}
      : tensor<?x24xf32>, tensor<?xi32> -> tensor<?x8xf32>
  return
}

// -----

moe.cache @kv heads 2 head_dim 4 : bf16
func.func @attention_block_c3(%qkv: tensor<?x24xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{has 0.000000e+00 as qk_norm, expected a positive number}}
  %o = moe.attention_block @kv, %qkv, %p, %p {qk_norm = 0.0 : f32}
      : tensor<?x24xf32>, tensor<?xi32> -> tensor<?x8xf32>
  return
}

// -----

func.func @linear_residual_c1(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>, %h: tensor<?x8xf32>) {
  // expected-error @+1 {{has 8 as dim 1 of residual, expected 4, dim 0 of weight}}
  %y = moe.linear_residual %x, %w, %h : tensor<?x8xf32>, tensor<4x8xf32>, tensor<?x8xf32>
  return
}

// -----

func.func @moe_block_c1(%x: tensor<?x8xf32>, %norm: tensor<8xf32>, %router: tensor<4x8xf32>,
                        %sgu: tensor<12x8xf32>, %gu: tensor<5x12x8xf32>, %sd: tensor<8x6xf32>,
                        %d: tensor<4x8x6xf32>) {
  // expected-error @+1 {{has 5 as dim 0 of gate_up, expected 4, dim 0 of router}}
  %y = moe.moe_block %x, %norm, %router, %sgu, %gu, %sd, %d top 1 eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xf32>, tensor<4x8xf32>, tensor<12x8xf32>, tensor<5x12x8xf32>,
        tensor<8x6xf32>, tensor<4x8x6xf32>
  return
}

// -----

func.func @moe_block_c1(%x: tensor<?x8xf32>, %norm: tensor<8xf32>, %router: tensor<4x8xf32>,
                        %sgu: tensor<12x8xf32>, %gu: tensor<4x6x8xf32>, %sd: tensor<8x6xf32>,
                        %d: tensor<4x8x6xf32>) {
  // expected-error @+1 {{has 6 as dim 1 of gate_up, expected 12, 2 times dim 2 of down}}
  %y = moe.moe_block %x, %norm, %router, %sgu, %gu, %sd, %d top 1 eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xf32>, tensor<4x8xf32>, tensor<12x8xf32>, tensor<4x6x8xf32>,
        tensor<8x6xf32>, tensor<4x8x6xf32>
  return
}

// -----

func.func @moe_block_c1(%x: tensor<?x8xf32>, %norm: tensor<8xf32>, %router: tensor<4x8xf32>,
                        %sgu: tensor<6x8xf32>, %gu: tensor<4x12x8xf32>, %sd: tensor<8x6xf32>,
                        %d: tensor<4x8x6xf32>) {
  // expected-error @+1 {{has 6 as dim 0 of shared_gate_up, expected 12, 2 times dim 1 of shared_down}}
  %y = moe.moe_block %x, %norm, %router, %sgu, %gu, %sd, %d top 1 eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xf32>, tensor<4x8xf32>, tensor<6x8xf32>, tensor<4x12x8xf32>,
        tensor<8x6xf32>, tensor<4x8x6xf32>
  return
}

// -----

func.func @moe_block_c1(%x: tensor<?x8xf32>, %norm: tensor<8xf32>, %router: tensor<4x8xf32>,
                        %sgu: tensor<12x8xf32>, %gu: tensor<4x12x8xf32>, %sd: tensor<8x5xf32>,
                        %d: tensor<4x8x6xf32>) {
  // expected-error @+1 {{has 5 as dim 1 of shared_down, expected 6, dim 2 of down}}
  %y = moe.moe_block %x, %norm, %router, %sgu, %gu, %sd, %d top 1 eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xf32>, tensor<4x8xf32>, tensor<12x8xf32>, tensor<4x12x8xf32>,
        tensor<8x5xf32>, tensor<4x8x6xf32>
  return
}

// -----

func.func @moe_block_c2(%x: tensor<?x8xf32>, %norm: tensor<8xf32>, %router: tensor<4x8xf32>,
                        %sgu: tensor<12x8xf32>, %gu: tensor<4x12x8xf32>, %sd: tensor<8x6xf32>,
                        %d: tensor<4x8x6xf32>) {
  // expected-error @+1 {{picks 5 of 4 experts}}
  %y = moe.moe_block %x, %norm, %router, %sgu, %gu, %sd, %d top 5 eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xf32>, tensor<4x8xf32>, tensor<12x8xf32>, tensor<4x12x8xf32>,
        tensor<8x6xf32>, tensor<4x8x6xf32>
  return
}

// -----

func.func @moe_block_c3(%x: tensor<?x8xf32>, %norm: tensor<8xf32>, %router: tensor<4x8xf32>,
                        %sgu: tensor<12x8xf32>, %gu: tensor<4x12x8xf32>, %sd: tensor<8x6xf32>,
                        %d: tensor<4x8x6xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %y = moe.moe_block %x, %norm, %router, %sgu, %gu, %sd, %d top 1 eps 0.0
      : tensor<?x8xf32>, tensor<8xf32>, tensor<4x8xf32>, tensor<12x8xf32>, tensor<4x12x8xf32>,
        tensor<8x6xf32>, tensor<4x8x6xf32>
  return
}

// -----

func.func @mlp_block_c1(%x: tensor<?x8xf32>, %norm: tensor<8xf32>, %gate_up: tensor<6x8xf32>,
                        %down: tensor<8x6xf32>) {
  // expected-error @+1 {{has 6 as dim 0 of gate_up, expected 12, 2 times dim 1 of down}}
  %y = moe.mlp_block %x, %norm, %gate_up, %down eps 1.0e-5
      : tensor<?x8xf32>, tensor<8xf32>, tensor<6x8xf32>, tensor<8x6xf32>
  return
}

// -----

func.func @mlp_block_c2(%x: tensor<?x8xf32>, %norm: tensor<8xf32>, %gate_up: tensor<12x8xf32>,
                        %down: tensor<8x6xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %y = moe.mlp_block %x, %norm, %gate_up, %down eps 0.0
      : tensor<?x8xf32>, tensor<8xf32>, tensor<12x8xf32>, tensor<8x6xf32>
  return
}

// -----

func.func @head_c1(%x: tensor<?x8xf32>, %rows: tensor<2xi32>, %norm: tensor<8xf32>,
                   %w: tensor<9x8xf32>) {
  // expected-error @+1 {{has 3 as dim 0 of result, expected 2, dim 0 of rows}}
  %l = moe.head %x, %rows, %norm, %w eps 1.0e-5 : tensor<?x8xf32>, tensor<2xi32>, tensor<8xf32>,
      tensor<9x8xf32> -> tensor<3x9xf32>
  return
}

// -----

func.func @head_c2(%x: tensor<?x8xf32>, %rows: tensor<2xi32>, %norm: tensor<8xf32>,
                   %w: tensor<9x8xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %l = moe.head %x, %rows, %norm, %w eps 0.0 : tensor<?x8xf32>, tensor<2xi32>, tensor<8xf32>,
      tensor<9x8xf32> -> tensor<2x9xf32>
  return
}

// -----

func.func @final_norm_c1(%x: tensor<?x8xf32>, %rows: tensor<2xi32>, %norm: tensor<8xf32>) {
  // expected-error @+1 {{has 9 as dim 1 of result, expected 8, dim 1 of x}}
  %n = moe.final_norm %x, %rows, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<2xi32>, tensor<8xf32>
      -> tensor<2x9xf32>
  return
}

// -----

func.func @final_norm_c2(%x: tensor<?x8xf32>, %rows: tensor<2xi32>, %norm: tensor<8xf32>) {
  // expected-error @+1 {{has 0.000000e+00 as eps, expected a positive number}}
  %n = moe.final_norm %x, %rows, %norm eps 0.0 : tensor<?x8xf32>, tensor<2xi32>, tensor<8xf32>
      -> tensor<2x8xf32>
  return
}
