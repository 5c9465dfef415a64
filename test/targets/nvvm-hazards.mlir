// RUN: moe-opt %s --moe-check-nvvm-hazards --split-input-file --verify-diagnostics

// Nothing to say about these.
llvm.mlir.global external @shared_memory() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>
llvm.mlir.global internal @own() {addr_space = 3 : i32} : !llvm.array<16 x i8>
llvm.func @helper(%x: f32) -> f32 {
  llvm.return %x : f32
}
llvm.func ptx_kernelcc @fine(%p: !llvm.ptr<1>, %q: !llvm.ptr<1>) {
  %one = llvm.mlir.constant(1 : i32) : i32
  %0 = llvm.atomicrmw add %p, %one monotonic : !llvm.ptr<1>, i32
  llvm.fence syncscope("device") release
  %1 = llvm.cmpxchg %p, %one, %one acq_rel monotonic : !llvm.ptr<1>, i32
  %2 = llvm.load %p {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xf32>
  // Two accesses of the largest size.
  %3 = llvm.load %p {alignment = 16 : i64} : !llvm.ptr<1> -> vector<8xf32>
  // The vector's own alignment.
  %4 = llvm.load %p : !llvm.ptr<1> -> vector<4xf32>
  llvm.store %2, %q {alignment = 32 : i64} : vector<4xf32>, !llvm.ptr<1>
  %5 = llvm.load %p {alignment = 4 : i64} : !llvm.ptr<1> -> f32
  %6 = llvm.call @helper(%5) : (f32) -> f32
  %7 = llvm.intr.exp2(%6) : (f32) -> f32
  %8 = llvm.intr.sqrt(%7) : (f32) -> f32
  %9 = llvm.intr.sin(%8) {fastmathFlags = #llvm.fastmath<afn>} : (f32) -> f32
  %10 = llvm.intr.fma(%9, %8, %7) : (f32, f32, f32) -> f32
  llvm.store %10, %q : f32, !llvm.ptr<1>
  llvm.return
}

// -----

llvm.func ptx_kernelcc @ordering(%p: !llvm.ptr<1>) {
  %one = llvm.mlir.constant(1 : i32) : i32
  // expected-error @+1 {{has ordering release, which the PTX back end drops without a word: use monotonic with fences}}
  %0 = llvm.atomicrmw add %p, %one syncscope("device") release : !llvm.ptr<1>, i32
  // expected-error @+1 {{has ordering acq_rel}}
  %1 = llvm.atomicrmw add %p, %one acq_rel : !llvm.ptr<1>, i32
  llvm.return
}

// -----

llvm.func ptx_kernelcc @alignment(%p: !llvm.ptr<1>) {
  // expected-error @+1 {{of 'vector<4xf32>' is aligned to 4 of 16 bytes, so it becomes one access for each element or few}}
  %0 = llvm.load %p {alignment = 4 : i64} : !llvm.ptr<1> -> vector<4xf32>
  // expected-error @+1 {{of 'vector<4xf32>' is aligned to 8 of 16 bytes}}
  llvm.store %0, %p {alignment = 8 : i64} : vector<4xf32>, !llvm.ptr<1>
  // expected-error @+1 {{of 'vector<8xbf16>' is aligned to 2 of 16 bytes}}
  %1 = llvm.load %p {alignment = 2 : i64} : !llvm.ptr<1> -> vector<8xbf16>
  // expected-error @+1 {{of 'vector<2xf16>' is aligned to 2 of 4 bytes}}
  %2 = llvm.load %p {alignment = 2 : i64} : !llvm.ptr<1> -> vector<2xf16>
  llvm.return
}

// -----

llvm.func @__nv_expf(f32) -> f32
llvm.func ptx_kernelcc @calls(%p: !llvm.ptr<1>) {
  %x = llvm.load %p : !llvm.ptr<1> -> f32
  // expected-error @+1 {{calls @__nv_expf, which is not in the module: nothing is linked to a plan's PTX, not even libdevice}}
  %0 = llvm.call @__nv_expf(%x) : (f32) -> f32
  // expected-error @+1 {{has no PTX instruction, and no library is linked that would have it: write it with llvm.intr.exp2}}
  %1 = llvm.intr.exp(%x) : (f32) -> f32
  // expected-error @+1 {{has no PTX instruction}}
  %2 = llvm.intr.log2(%x) {fastmathFlags = #llvm.fastmath<afn>} : (f32) -> f32
  // expected-error @+1 {{has no PTX instruction}}
  %3 = llvm.intr.pow(%x, %x) : (f32, f32) -> f32
  // expected-error @+1 {{has only an approximate PTX instruction, and the back end ends without a diagnostic unless that is allowed: give it fastmath<afn>}}
  %4 = llvm.intr.sin(%x) : (f32) -> f32
  llvm.return
}

// -----

// expected-error @+1 {{is dynamic shared memory with internal linkage, which becomes a variable of one byte: it must be external}}
llvm.mlir.global internal @shared_memory() {addr_space = 3 : i32, alignment = 16 : i64} : !llvm.array<0 x i8>

// -----

// expected-error @+1 {{takes parameter 1 by value, and the runtime passes addresses: take a pointer to it}}
llvm.func ptx_kernelcc @scalar(%p: !llvm.ptr<1>, %n: i32) {
  llvm.return
}
// expected-error @+1 {{takes parameter 0 by value}}
llvm.func ptx_kernelcc @byval(%p: !llvm.ptr {llvm.byval = !llvm.array<128 x i8>}) {
  llvm.return
}

// -----

// Accumulators go around a loop of products, and through the wait before they are used.
llvm.func ptx_kernelcc @tied(%p: !llvm.ptr<1>, %again: !llvm.ptr<1>) {
  %zero = llvm.mlir.constant(0.0 : f32) : f32
  %d = llvm.mlir.constant(0 : i64) : i64
  llvm.br ^loop(%zero, %zero : f32, f32)
^loop(%a: f32, %b: f32):
  %r = llvm.inline_asm has_side_effects asm_dialect = att "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {$0, $1}, $2, $2, 1, 1, 1, 0, 0;", "=f,=f,l,0,1" %d, %a, %b : (i64, f32, f32) -> !llvm.struct<(f32, f32)>
  %0 = llvm.extractvalue %r[0] : !llvm.struct<(f32, f32)>
  %1 = llvm.extractvalue %r[1] : !llvm.struct<(f32, f32)>
  %more = llvm.load %again : !llvm.ptr<1> -> i1
  llvm.cond_br %more, ^loop(%0, %1 : f32, f32), ^end(%0, %1 : f32, f32)
^end(%x: f32, %y: f32):
  %w = llvm.inline_asm has_side_effects asm_dialect = att "wgmma.wait_group.sync.aligned 0;", "=f,=f,0,1" %x, %y : (f32, f32) -> !llvm.struct<(f32, f32)>
  %2 = llvm.extractvalue %w[0] : !llvm.struct<(f32, f32)>
  llvm.store %2, %p : f32, !llvm.ptr<1>
  llvm.return
}

// -----

llvm.func ptx_kernelcc @early(%p: !llvm.ptr<1>) {
  %zero = llvm.mlir.constant(0.0 : f32) : f32
  %d = llvm.mlir.constant(0 : i64) : i64
  // expected-note @+1 {{the accumulator is written here}}
  %0 = llvm.inline_asm has_side_effects asm_dialect = att "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {$0}, $1, $1, 1, 1, 1, 0, 0;", "=f,l,0" %d, %zero : (i64, f32) -> f32
  llvm.inline_asm has_side_effects asm_dialect = att "wgmma.wait_group.sync.aligned 0;", "" : () -> ()
  // expected-error @+1 {{uses an accumulator of wgmma that no wait has returned: pass it through the inline PTX of wgmma.wait_group as an operand that is tied to a result}}
  llvm.store %0, %p : f32, !llvm.ptr<1>
  llvm.return
}

// -----

// An operand of the wait that is not tied says nothing of what is used later.
llvm.func ptx_kernelcc @loose(%p: !llvm.ptr<1>) {
  %zero = llvm.mlir.constant(0.0 : f32) : f32
  %d = llvm.mlir.constant(0 : i64) : i64
  // expected-note @+1 {{the accumulator is written here}}
  %0 = llvm.inline_asm has_side_effects asm_dialect = att "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {$0}, $1, $1, 1, 1, 1, 0, 0;", "=f,l,0" %d, %zero : (i64, f32) -> f32
  // expected-error @+1 {{uses an accumulator of wgmma that no wait has returned}}
  llvm.inline_asm has_side_effects asm_dialect = att "wgmma.wait_group.sync.aligned 0;", "f" %0 : (f32) -> ()
  llvm.return
}

// -----

llvm.func ptx_kernelcc @upstream() {
  // expected-error @+1 {{does not name the accumulators that it waits for, so their uses may move before it}}
  nvvm.wgmma.wait.group.sync.aligned 0
  // expected-error @+1 {{is of wgmma and not marked has_side_effects, so it may move or go}}
  llvm.inline_asm asm_dialect = att "wgmma.wait_group.sync.aligned 0;", "" : () -> ()
  llvm.return
}
