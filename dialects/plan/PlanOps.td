// The ops of the plan dialect.
#ifndef MOE_DIALECTS_PLAN_PLANOPS_TD
#define MOE_DIALECTS_PLAN_PLANOPS_TD

include "dialects/plan/PlanDialect.td"
include "dialects/moe/MoeDialect.td"
include "mlir/IR/RegionKindInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class Plan_Op<string mnemonic, list<Trait> traits = []> : Op<Plan_Dialect, mnemonic, traits>;

def Plan_TensorOp : Plan_Op<"tensor", [Symbol]> {
  let summary = "a packed weight in the weights section of a device";
  let description = [{
    The symbol may start with the device's name, so that those of several devices can stand in one
    module.

    What its elements are says the `moe.weight` of its name, of the model that was lowered.

    - (C1) `offset` is a multiple of 64, and `bytes` is what the packing of the type needs

    ```mlir
    plan.tensor @cpu.layers.0.qkv at 4096 bytes 262144 : tensor<512x256xbf16>
        packed #plan.packing<panel_heads, bf16, 64> device "cpu"
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, I64Attr:$offset, I64Attr:$bytes,
      TypeAttrOf<AnyRankedTensor>:$type, Plan_PackingAttr:$packing, StrAttr:$device);
  let assemblyFormat = [{
    $sym_name `at` $offset `bytes` $bytes `:` $type `packed` qualified($packing) `device` $device
    attr-dict
  }];
  let extraClassDeclaration = [{
    // The name of the weight: "layers.0.qkv" of @cuda.layers.0.qkv.
    ::llvm::StringRef getTensorName();
  }];
  let hasVerifier = 1;
}

def Plan_PoolOp : Plan_Op<"pool", [Symbol]> {
  let summary = "a pool of KV pages, for all layers that see the same positions";
  let description = [{
    The symbol may start with the device's name, which the file leaves out.

    - (C1) the sizes are positive, `page_bytes` a multiple of 64
    - (C2) a pool of class `chunk`, and no other, has a chunk

    ```mlir
    plan.pool @cpu.global class all_positions layers 2 page_tokens 64 page_bytes 65536 device "cpu"
    plan.pool @cpu.chunked class chunk of 128 layers 6 page_tokens 64 page_bytes 196608 device "cpu"
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
      EnumAttr<Plan_Dialect, Plan_PoolClass, "pool_class">:$pool_class,
      OptionalAttr<I64Attr>:$chunk, I64Attr:$layers, I64Attr:$page_tokens, I64Attr:$page_bytes,
      StrAttr:$device);
  let assemblyFormat = [{
    $sym_name `class` `` $pool_class (`of` $chunk^)? `layers` $layers `page_tokens` $page_tokens
    `page_bytes` $page_bytes `device` $device attr-dict
  }];
  let extraClassDeclaration = [{
    // The name in the file: "global" of @cuda.global.
    ::llvm::StringRef getPoolName();
  }];
  let hasVerifier = 1;
}

def Plan_KernelOp : Plan_Op<"kernel", [Symbol]> {
  let summary = "a kernel that programs call; its code is an image's affair";
  let description = [{
    ```mlir
    plan.kernel @cpu.qkv_bf16_512x256 device "cpu" operands 8
    plan.kernel @cuda.norm_bf16_256_t64 device "cuda" operands 3 grid
    ```

    The symbol may start with the device's name, which the file leaves out. A kernel with `grid` is
    launched as a grid of blocks of threads; others run on every worker of the device.
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, StrAttr:$device, I64Attr:$operands,
      UnitAttr:$grid);
  let assemblyFormat = "$sym_name `device` $device `operands` $operands (`grid` $grid^)? attr-dict";
  let extraClassDeclaration = [{
    // The name in the file and in images: "embed_bf16_256" of @cuda.embed_bf16_256.
    ::llvm::StringRef getKernelName();
  }];
}

def Plan_TensorSpecs : TypedArrayAttrBase<Plan_TensorSpecAttr, "array of #plan.spec">;

def Plan_ProgramOp : Plan_Op<"program", [Symbol, IsolatedFromAbove, NoTerminator, SingleBlock,
    DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "one run, of at most `tokens` tokens";
  let description = [{
    A program declares its `inputs` and `outputs` (#plan.spec); what those of a `step` mean is said
    in `runtime/session/StepBinding.h`, and the compiler's in `StepSpecs.h`. A `vision` program
    turns tiles of pictures into rows that steps take in place of tokens; its `tokens` are tiles.

    - (C1) `tokens` is positive; `rows` is positive of a step and 0 of another kind
    - (C2) after planning, every `plan.alloc` lies inside `arena`, and two that are live together do
      not overlap
    - (C3) no two inputs, and no two outputs, have one name; outputs have dimensions of `T`, `R` and
      constants, and no pool
    - (C4) a step has an output "logits" or "ids"
    - (C5) a block table is of a `plan.pool` of the program's device
    - (C6) a vision program has the one input "tiles", ui8[T, S, S, 3], and the one output
      "image_rows", f32[T, t, D], of constants S, t and D

    ```mlir
    plan.program @cpu.8 step device "cpu" tokens 8 rows 8 scratch 65536 arena 131072
        inputs ["tokens" : i32[T]] outputs ["logits" : f32[R, 4096]] {
      %tokens = plan.input "tokens"
      %h = plan.alloc 8192 at 0
      %table = plan.weight @cpu.embed
      plan.call @embed(%tokens, %table, %h)
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
      EnumAttr<Plan_Dialect, Plan_ProgramKind, "program_kind">:$kind, StrAttr:$device,
      I64Attr:$tokens, I64Attr:$rows, I64Attr:$scratch, OptionalAttr<I64Attr>:$arena,
      DefaultValuedAttr<Plan_TensorSpecs, "{}">:$inputs,
      DefaultValuedAttr<Plan_TensorSpecs, "{}">:$outputs);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $sym_name `` $kind `device` $device `tokens` $tokens `rows` $rows `scratch` $scratch
    (`arena` $arena^)? (`inputs` custom<Specs>($inputs)^)? (`outputs` custom<Specs>($outputs)^)?
    attr-dict-with-keyword $body
  }];
  let extraClassDeclaration = [{
    // Index of the one with that name; nothing if there is none.
    static std::optional<uint32_t> find(::mlir::ArrayAttr specs, ::llvm::StringRef name);
  }];
  let hasVerifier = 1;
  let hasRegionVerifier = 1;
}

class Plan_BufferOp<string mnemonic, list<Trait> traits = []> : Plan_Op<mnemonic, traits> {
  let results = (outs Plan_Buffer:$result);
}

def Plan_InputOp : Plan_BufferOp<"input", [Pure, HasParent<"ProgramOp">]> {
  let summary = "an input of the program";
  let description = [{
    - (C1) the program declares it
  }];
  let arguments = (ins StrAttr:$name);
  let assemblyFormat = "$name attr-dict";
  let hasVerifier = 1;
}

def Plan_OutputOp : Plan_BufferOp<"output", [Pure, HasParent<"ProgramOp">]> {
  let summary = "an output of the program";
  let description = [{
    - (C1) the program declares it
  }];
  let arguments = (ins StrAttr:$name);
  let assemblyFormat = "$name attr-dict";
  let hasVerifier = 1;
}

def Plan_AllocOp : Plan_BufferOp<"alloc", [HasParent<"ProgramOp">]> {
  let summary = "bytes of the arena, from its first to its last use";
  let description = [{
    Memory planning gives it its offset.

    - (C1) `bytes` is positive; `offset`, where present, a multiple of 64
  }];
  let arguments = (ins I64Attr:$bytes, OptionalAttr<I64Attr>:$offset);
  let assemblyFormat = "$bytes (`at` $offset^)? attr-dict";
  let hasVerifier = 1;
}

def Plan_CountersOp : Plan_BufferOp<"counters", [Pure, HasParent<"ProgramOp">]> {
  let summary = "counters of a kernel, zero before and after it";
  let description = [{
    All kernels of a session use the same ones.

    - (C1) `bytes` is positive and a multiple of 4
  }];
  let arguments = (ins I64Attr:$bytes);
  let assemblyFormat = "$bytes attr-dict";
  let hasVerifier = 1;
}

def Plan_WeightOp : Plan_BufferOp<"weight", [Pure, HasParent<"ProgramOp">,
    DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "the bytes of a `plan.tensor`";
  let description = [{
    - (C1) `tensor` names a `plan.tensor` of the program's device
  }];
  let arguments = (ins FlatSymbolRefAttr:$tensor);
  let assemblyFormat = "$tensor attr-dict";
}

def Plan_CacheOp : Plan_BufferOp<"cache", [Pure, HasParent<"ProgramOp">,
    DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "a layer's part of each page of a pool";
  let description = [{
    - (C1) `pool` names a `plan.pool` of the program's device; `offset` is inside its page
    - (C2) the program is a step
  }];
  let arguments = (ins FlatSymbolRefAttr:$pool, I64Attr:$offset);
  let assemblyFormat = "$pool `at` $offset attr-dict";
}

def Plan_CallOp : Plan_Op<"call", [HasParent<"ProgramOp">,
    DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "run a kernel on all workers; the next call starts when it has ended";
  let description = [{
    Of a kernel with `grid`, `blocks` says into how many pieces the work of `tokens` tokens falls:
    more blocks of threads are of no use.

    - (C1) `kernel` names a `plan.kernel` of the program's device that takes as many operands
    - (C2) `blocks` is there and positive for a kernel with `grid`, and absent for others

    ```mlir
    plan.call @cuda.norm_bf16_256_t64(%h, %norm, %x) blocks 64
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel, Variadic<Plan_Buffer>:$operands,
      OptionalAttr<I64Attr>:$blocks);
  let assemblyFormat = "$kernel `(` $operands `)` (`blocks` $blocks^)? attr-dict";
  let extraClassDeclaration = [{
    // The name of its kernel in the file and in images, without a device.
    ::llvm::StringRef getKernelName();
  }];
}

#endif
