// RUN: moe-opt %s | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s

// CHECK: plan.tensor @embed at 4096 bytes 8192 : tensor<64x64xbf16> packed #plan.packing<rows, bf16> device "cpu"
plan.tensor @embed at 4096 bytes 8192 : tensor<64x64xbf16> packed #plan.packing<rows, bf16> device "cpu"
// CHECK: plan.pool @global class all_positions layers 2 page_tokens 64 page_bytes 65536 device "cpu"
plan.pool @global class all_positions layers 2 page_tokens 64 page_bytes 65536 device "cpu"
// CHECK: plan.pool @chunked class chunk of 128 layers 6 page_tokens 64 page_bytes 196608 device "cpu"
plan.pool @chunked class chunk of 128 layers 6 page_tokens 64 page_bytes 196608 device "cpu"
// CHECK: plan.kernel @embed_bf16 device "cpu" operands 3
plan.kernel @embed_bf16 device "cpu" operands 3
// CHECK: plan.kernel @attention device "cpu" operands 5
plan.kernel @attention device "cpu" operands 5

// CHECK-LABEL: plan.program @cpu.8 step device "cpu" tokens 8 rows 4 scratch 4096 arena 4096
// CHECK-SAME: inputs ["tokens" : i32[T], "rows" : i32[R], "masks" : ui32[R, 64], "global_table" : i32[S, P] of @global, "chunked_table" : i32[S, P] of @chunked, "scale" : bf16[]]
// CHECK-SAME: outputs ["logits" : f32[R, 4096], "hidden" : f16[T, 64]] {
// CHECK-NEXT: %[[TOKENS:.*]] = plan.input "tokens"
// CHECK-NEXT: plan.input "rows"
// CHECK-NEXT: %[[CHUNKED:.*]] = plan.input "chunked_table"
// CHECK-NEXT: %[[H:.*]] = plan.alloc 2048 at 64
// CHECK-NEXT: plan.alloc 4
// CHECK-NEXT: %[[TABLE:.*]] = plan.weight @embed
// CHECK-NEXT: plan.call @embed_bf16(%[[TOKENS]], %[[TABLE]], %[[H]])
// CHECK-NEXT: plan.cache @chunked at 32768
// CHECK-NEXT: %[[LOGITS:.*]] = plan.output "logits"
// CHECK-NEXT: plan.call @attention(%[[H]], %{{.*}}, %[[CHUNKED]], %{{.*}}, %[[LOGITS]])
plan.program @cpu.8 step device "cpu" tokens 8 rows 4 scratch 4096 arena 4096
    inputs ["tokens" : i32[T], "rows" : i32[R], "masks" : ui32[R, 64],
            "global_table" : i32[S, P] of @global, "chunked_table" : i32[S, P] of @chunked,
            "scale" : bf16[]]
    outputs ["logits" : f32[R, 4096], "hidden" : f16[T, 64]] {
  %tokens = plan.input "tokens"
  %rows = plan.input "rows"
  %chunked = plan.input "chunked_table"
  %h = plan.alloc 2048 at 64
  %g = plan.alloc 4 at 0
  %table = plan.weight @embed
  plan.call @embed_bf16(%tokens, %table, %h)
  %cache = plan.cache @chunked at 32768
  %logits = plan.output "logits"
  plan.call @attention(%h, %cache, %chunked, %rows, %logits)
}

// Those of another device.
// CHECK: plan.tensor @norm at 256 bytes 256 : tensor<64xf32> packed #plan.packing<rows, f32> device "cuda"
plan.tensor @norm at 256 bytes 256 : tensor<64xf32> packed #plan.packing<rows, f32> device "cuda"
// CHECK: plan.tensor @w at 512 bytes 2048 : tensor<16x60xbf16> packed #plan.packing<fragments, bf16> device "cuda"
plan.tensor @w at 512 bytes 2048 : tensor<16x60xbf16>
    packed #plan.packing<fragments, bf16> device "cuda"
// CHECK: plan.pool @cuda.global class all_positions layers 2 page_tokens 64 page_bytes 65536 device "cuda"
plan.pool @cuda.global class all_positions layers 2 page_tokens 64 page_bytes 65536 device "cuda"
// CHECK: plan.pool @cuda.chunked class chunk of 128 layers 6 page_tokens 64 page_bytes 196608 device "cuda"
plan.pool @cuda.chunked class chunk of 128 layers 6 page_tokens 64 page_bytes 196608 device "cuda"
plan.kernel @norm_bf16 device "cuda" operands 5 grid
// CHECK-LABEL: plan.program @cuda.8 step device "cuda"
// CHECK: %[[COUNTERS:.*]] = plan.counters 128
// CHECK: plan.call @norm_bf16(%{{.*}}, %{{.*}}, %{{.*}}, %[[COUNTERS]], %{{.*}}) blocks 8{{$}}
// CHECK: plan.input "sampling"
// CHECK: %[[IDS:.*]] = plan.output "ids"
// CHECK-NEXT: plan.call @norm_bf16({{.*}}, %[[IDS]], %{{.*}}) blocks 1{{$}}
plan.program @cuda.8 step device "cuda" tokens 8 rows 8 scratch 0 arena 512
    inputs ["sampling" : ui8[R, 40]] outputs ["ids" : i32[R], "logits" : f32[R, 4096]] {
  %h = plan.alloc 64 at 256
  %n = plan.weight @norm
  %w = plan.weight @w
  %counters = plan.counters 128
  %cache = plan.cache @cuda.global at 64
  plan.call @norm_bf16(%h, %n, %w, %counters, %cache) blocks 8
  %sampling = plan.input "sampling"
  %logits = plan.output "logits"
  %ids = plan.output "ids"
  plan.call @norm_bf16(%sampling, %n, %logits, %ids, %h) blocks 1
}

// Before memory planning there are no offsets.
// CHECK-LABEL: plan.program @cpu.1 step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
// CHECK-NEXT: plan.alloc 2048{{$}}
// CHECK-NEXT: }
plan.program @cpu.1 step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  %h = plan.alloc 2048
}

// Two buffers may share bytes where they are never live together.
// CHECK-LABEL: plan.program @shared
plan.program @shared step device "cpu" tokens 1 rows 1 scratch 0 arena 128 outputs ["ids" : i32[R]] {
  %a = plan.alloc 64 at 0
  %b = plan.alloc 64 at 64
  %c = plan.alloc 64 at 0
  plan.call @embed_bf16(%a, %a, %b)
  plan.call @embed_bf16(%b, %b, %c)
}

// Tiles of pictures.
// CHECK-LABEL: plan.program @cpu.vision.4 vision device "cpu" tokens 4 rows 0 scratch 64 arena 128
// CHECK-SAME: inputs ["tiles" : ui8[T, 8, 8, 3]] outputs ["image_rows" : f32[T, 4, 16]] {
plan.program @cpu.vision.4 vision device "cpu" tokens 4 rows 0 scratch 64 arena 128
    inputs ["tiles" : ui8[T, 8, 8, 3]] outputs ["image_rows" : f32[T, 4, 16]] {
  %tiles = plan.input "tiles"
  %rows = plan.output "image_rows"
  plan.call @embed_bf16(%tiles, %tiles, %rows)
}

// The attribute alone.
// CHECK: module attributes {plan.spec = #plan.spec<"table" : i32[S, P] of @global>}
module attributes {plan.spec = #plan.spec<"table" : i32[S, P] of @global>} {
}
