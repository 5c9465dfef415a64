// RUN: moe-opt %s --split-input-file --verify-diagnostics

// tensor_c1
// expected-error @+1 {{is at 32, which is no multiple of 64}}
plan.tensor @w at 32 bytes 8192 : tensor<64x64xbf16> packed #plan.packing<rows, bf16> device "cpu"

// -----

// tensor_c1: 65 rows need two panels
// expected-error @+1 {{has 8320 bytes, but its packing needs 16384}}
plan.tensor @w at 0 bytes 8320 : tensor<65x64xbf16> packed #plan.packing<panel, bf16> device "cpu"

// -----

// tensor_c1: pairs of columns
// expected-error @+1 {{has 8064 bytes, but its packing needs 8192}}
plan.tensor @w at 0 bytes 8064 : tensor<64x63xbf16> packed #plan.packing<panel, bf16> device "cpu"

// -----

// tensor_c1: 2 x 48 rows, so two panels of 32 + 32
// expected-error @+1 {{has 24576 bytes, but its packing needs 32768}}
plan.tensor @w at 0 bytes 24576 : tensor<96x64xf32> packed #plan.packing<panel_gate_up, f32> device "cpu"

// -----

// tensor_c1: four heads, a panel each
// expected-error @+1 {{has 16384 bytes, but its packing needs 65536}}
plan.tensor @w at 0 bytes 16384 : tensor<64x64xf32> packed #plan.packing<panel_heads, f32, 16> device "cpu"

// -----

// tensor_c1
// expected-error @+1 {{its rows are not a multiple of the head dimension}}
plan.tensor @w at 0 bytes 16384 : tensor<64x64xf32> packed #plan.packing<panel_heads, f32, 24> device "cpu"

// -----

// tensor_c1
// expected-error @+1 {{is packed as f16, expected f32, bf16 or codes}}
plan.tensor @w at 0 bytes 8192 : tensor<64x64xf16> packed #plan.packing<panel, f16> device "cpu"

// -----

// expected-error @+1 {{unknown layout 'panels', expected one of rows, panel, panel_gate_up, panel_heads, fragments, fragments_gate_up}}
plan.tensor @w at 0 bytes 8192 : tensor<64x64xbf16> packed #plan.packing<panels, bf16> device "cpu"

// -----

// pool_c1
// expected-error @+1 {{has a size that is not positive}}
plan.pool @global class all_positions layers 0 page_tokens 64 page_bytes 65536 device "cpu"

// -----

// pool_c1
// expected-error @+1 {{has pages of 100 bytes, which is no multiple of 64}}
plan.pool @global class all_positions layers 1 page_tokens 64 page_bytes 100 device "cpu"

// -----

// pool_c2
// expected-error @+1 {{is of class chunk without a chunk}}
plan.pool @local class chunk layers 1 page_tokens 64 page_bytes 64 device "cpu"

// -----

// pool_c2
// expected-error @+1 {{is of class all_positions with a chunk}}
plan.pool @global class all_positions of 64 layers 1 page_tokens 64 page_bytes 64 device "cpu"

// -----

// program_c1
// expected-error @+1 {{has room for 0 tokens and 1 rows}}
plan.program @p step device "cpu" tokens 0 rows 1 scratch 0 outputs ["ids" : i32[R]] {
}

// -----

// program_c1
// expected-error @+1 {{is of kind vision and has 1 rows, which only steps have}}
plan.program @p vision device "cpu" tokens 1 rows 1 scratch 0
    inputs ["tiles" : ui8[T, 8, 8, 3]] outputs ["image_rows" : f32[T, 4, 16]] {
}

// -----

// program_c6
// expected-error @+1 {{expected the one input "tiles" : ui8[T, S, S, 3]}}
plan.program @p vision device "cpu" tokens 1 rows 0 scratch 0
    outputs ["image_rows" : f32[T, 4, 16]] {
}

// -----

// program_c6: no square
// expected-error @+1 {{expected the one input "tiles" : ui8[T, S, S, 3]}}
plan.program @p vision device "cpu" tokens 1 rows 0 scratch 0
    inputs ["tiles" : ui8[T, 8, 9, 3]] outputs ["image_rows" : f32[T, 4, 16]] {
}

// -----

// program_c6: a table beside it
// expected-error @+1 {{expected the one input "tiles" : ui8[T, S, S, 3]}}
plan.program @p vision device "cpu" tokens 1 rows 0 scratch 0
    inputs ["tiles" : ui8[T, 8, 8, 3], "tokens" : i32[T]]
    outputs ["image_rows" : f32[T, 4, 16]] {
}

// -----

// program_c6
// expected-error @+1 {{expected the one output "image_rows" : f32[T, t, D]}}
plan.program @p vision device "cpu" tokens 1 rows 0 scratch 0
    inputs ["tiles" : ui8[T, 8, 8, 3]] outputs ["image_rows" : f32[T, 64]] {
}

// -----

plan.pool @global class all_positions layers 1 page_tokens 64 page_bytes 64 device "cpu"
plan.program @p vision device "cpu" tokens 1 rows 0 scratch 0
    inputs ["tiles" : ui8[T, 8, 8, 3]] outputs ["image_rows" : f32[T, 4, 16]] {
  // cache_c2
  // expected-error @+1 {{is in a program of kind vision, and only steps have caches}}
  %c = plan.cache @global at 0
}

// -----

plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 arena 64 outputs ["ids" : i32[R]] {
  // program_c2
  // expected-error @+1 {{reaches beyond the arena of 64 bytes}}
  %a = plan.alloc 64 at 64
}

// -----

plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 arena 64 outputs ["ids" : i32[R]] {
  // program_c2
  // expected-error @+1 {{has no offset in a program that has an arena}}
  %a = plan.alloc 64
}

// -----

plan.kernel @k device "cpu" operands 2
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 arena 192 outputs ["ids" : i32[R]] {
  // expected-note @+1 {{the other is here}}
  %a = plan.alloc 128 at 0
  // program_c2
  // expected-error @+1 {{overlaps another that is live}}
  %b = plan.alloc 128 at 64
  plan.call @k(%a, %b)
}

// -----

plan.kernel @k device "cpu" operands 2
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 arena 64 outputs ["ids" : i32[R]] {
  // Not together in a call, but one is live while the other is used.
  // expected-error @+1 {{overlaps another that is live}}
  %a = plan.alloc 64 at 0
  // expected-note @+1 {{the other is here}}
  %b = plan.alloc 64 at 0
  plan.call @k(%b, %b)
  plan.call @k(%a, %a)
  plan.call @k(%b, %b)
}

// -----

plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // alloc_c1
  // expected-error @+1 {{has 0 bytes}}
  %a = plan.alloc 0
}

// -----

plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // alloc_c1
  // expected-error @+1 {{is at 8, which is no multiple of 64}}
  %a = plan.alloc 8 at 8
}

// -----

plan.pool @w class all_positions layers 1 page_tokens 64 page_bytes 64 device "cpu"
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // weight_c1
  // expected-error @+1 {{names @w, which is no plan.tensor}}
  %w = plan.weight @w
}

// -----

plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // cache_c1
  // expected-error @+1 {{names @global, which is no plan.pool}}
  %c = plan.cache @global at 0
}

// -----

plan.pool @global class all_positions layers 1 page_tokens 64 page_bytes 64 device "cpu"
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // cache_c1
  // expected-error @+1 {{is at 64 of pages of 64 bytes}}
  %c = plan.cache @global at 64
}

// -----

plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // call_c1
  // expected-error @+1 {{names @k, which is no plan.kernel}}
  plan.call @k()
}

// -----

plan.kernel @k device "cuda" operands 0
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // call_c1
  // expected-error @+1 {{runs a kernel of "cuda" in a program of "cpu"}}
  plan.call @k()
}

// -----

plan.kernel @k device "cpu" operands 1
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // call_c1
  // expected-error @+1 {{has 0 operands, and its kernel takes 1}}
  plan.call @k()
}

// -----

// tensor_c1: 17 rows are two strips, 65 columns eight tiles
// expected-error @+1 {{has 2210 bytes, but its packing needs 8192}}
plan.tensor @w at 0 bytes 2210 : tensor<17x65xbf16> packed #plan.packing<fragments, bf16> device "cpu"

// -----

// tensor_c1: 2 x 9 rows, so two strips of 8 + 8
// expected-error @+1 {{has 2048 bytes, but its packing needs 4096}}
plan.tensor @w at 0 bytes 2048 : tensor<18x64xbf16> packed #plan.packing<fragments_gate_up, bf16> device "cpu"

// -----

// tensor_c1
// expected-error @+1 {{is packed in fragments, which need bf16 or codes}}
plan.tensor @w at 0 bytes 4096 : tensor<16x64xf32> packed #plan.packing<fragments, f32> device "cpu"

// -----

plan.program @p step device "cuda" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // counters_c1
  // expected-error @+1 {{has 6 bytes, expected a positive multiple of 4}}
  %c = plan.counters 6
}

// -----

plan.tensor @w at 0 bytes 8192 : tensor<64x64xbf16> packed #plan.packing<fragments, bf16> device "cpu"
plan.program @p step device "cuda" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // weight_c1
  // expected-error @+1 {{uses @w of "cpu" in a program of "cuda"}}
  %w = plan.weight @w
}

// -----

plan.pool @cuda.global class all_positions layers 1 page_tokens 64 page_bytes 64 device "cuda"
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // cache_c1
  // expected-error @+1 {{uses @cuda.global of "cuda" in a program of "cpu"}}
  %c = plan.cache @cuda.global at 0
}

// -----

plan.kernel @k device "cpu" operands 0
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // call_c2
  // expected-error @+1 {{has blocks, and @k is not launched as a grid}}
  plan.call @k() blocks 1
}

// -----

plan.kernel @k device "cuda" operands 0 grid
plan.program @p step device "cuda" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  // call_c2
  // expected-error @+1 {{has 0 blocks, and @k is launched as a grid, expected some}}
  plan.call @k()
}

// -----

// expected-error @+1 {{expected a number, T, R, S or P as a dimension, not 'Q'}}
module attributes {plan.spec = #plan.spec<"x" : i32[Q]>} {
}

// -----

// expected-error @+1 {{expected a positive dimension, not 0}}
module attributes {plan.spec = #plan.spec<"x" : i32[0]>} {
}

// -----

// expected-error @+1 {{"x" has elements of 'i64', expected ui8, i32, ui32, f16, bf16 or f32}}
module attributes {plan.spec = #plan.spec<"x" : i64[T]>} {
}

// -----

// expected-error @+1 {{"x" has T in a place that is not its first}}
module attributes {plan.spec = #plan.spec<"x" : i32[R, T]>} {
}

// -----

// expected-error @+1 {{an input or output needs a name}}
module attributes {plan.spec = #plan.spec<"" : i32[R]>} {
}

// -----

// expected-error @+1 {{"x" is the block table of @global, expected i32[S, P]}}
module attributes {plan.spec = #plan.spec<"x" : i32[P, S] of @global>} {
}

// -----

// program_c3
// expected-error @+1 {{has two inputs called "rows"}}
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0
    inputs ["rows" : i32[R], "tokens" : i32[T], "rows" : i32[R]] outputs ["ids" : i32[R]] {
}

// -----

// program_c3
// expected-error @+1 {{has two outputs called "ids"}}
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0
    outputs ["ids" : i32[R], "ids" : i32[T]] {
}

// -----

// program_c3
// expected-error @+1 {{has the output "ids" with S, P or a pool, which only inputs have}}
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[S]] {
}

// -----

// program_c4
// expected-error @+1 {{is a step without an output "logits" or "ids"}}
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0 outputs ["hidden" : f32[T, 8]] {
}

// -----

// program_c5
// expected-error @+1 {{has a block table of @global, which is no plan.pool}}
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0
    inputs ["table" : i32[S, P] of @global] outputs ["ids" : i32[R]] {
}

// -----

plan.pool @global class all_positions layers 1 page_tokens 64 page_bytes 64 device "cuda"
// program_c5
// expected-error @+1 {{has a block table of @global of "cuda" in a program of "cpu"}}
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0
    inputs ["table" : i32[S, P] of @global] outputs ["ids" : i32[R]] {
}

// -----

// A program that does not declare sampling has none.
plan.program @p step device "cpu" tokens 1 rows 1 scratch 0
    inputs ["tokens" : i32[T]] outputs ["logits" : f32[R, 8]] {
  // input_c1
  // expected-error @+1 {{"sampling" is not declared by its program}}
  %s = plan.input "sampling"
}

// -----

plan.program @p step device "cpu" tokens 1 rows 1 scratch 0
    inputs ["ids" : i32[T]] outputs ["logits" : f32[R, 8]] {
  // output_c1
  // expected-error @+1 {{"ids" is not declared by its program}}
  %i = plan.output "ids"
}
