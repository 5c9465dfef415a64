// The plan dialect: what a plan file will hold.
#ifndef MOE_DIALECTS_PLAN_PLANDIALECT_TD
#define MOE_DIALECTS_PLAN_PLANDIALECT_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"

def Plan_Dialect : Dialect {
  let name = "plan";
  let cppNamespace = "::moe::plan";
  let dependentDialects = ["::moe::MoeDialect"]; // formats of weights
  let summary = "buffers with offsets, and kernel calls in order: what the plan file will hold";
  let description = [{
    A module holds packed tensors (`plan.tensor`), cache pools (`plan.pool`), kernels
    (`plan.kernel`) and, for each device and token bucket, one program (`plan.program`) whose body
    declares its inputs and outputs, names buffers and calls kernels on them. Devices share nothing
    but the model: each has its own tensors and pools.
  }];
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
}

class Plan_Type<string name, string mnemonic_> : TypeDef<Plan_Dialect, name> {
  let mnemonic = mnemonic_;
}

def Plan_Buffer : Plan_Type<"Buffer", "buffer"> {
  let summary = "bytes that a kernel reads or writes";
}

def Plan_PackingAttr : AttrDef<Plan_Dialect, "Packing"> {
  let mnemonic = "packing";
  let summary = "how a weight is stored and lies in memory";
  let description = [{
    - `rows`: row-major, as the weight's type says.
    - `panel`: the last two dimensions `[n, k]` as panels of 64 rows, `[ceil(n/64), k, 64]` for f32
      and `[ceil(n/64), ceil(k/2), 64, 2]` for bf16, padded with zeros.
    - `panel_gate_up`: `n = 2i`, the gate rows before the up rows; panel p holds gate rows
      `32p..32p+31`, then up rows `32p..32p+31`.
    - `panel_heads`: each `head_dim` rows are padded to a multiple of 64 first, so that a head
      starts a panel.
    - `fragments`: tiles of 16 rows by 16 columns, of bf16, in the order in which the lanes of a
      warp hold them for `mma.sync`; the tiles of 16 rows lie together, and rows and columns are
      padded with zeros to multiples of 16 and 64.
    - `fragments_gate_up`: `n = 2i`; the 16 rows of tiles s are gate rows `8s..8s+7`, then up rows
      `8s..8s+7`.

    Codes (see #moe.format) are packed in all of them too; `runtime/weights/Layout.h` says where
    they and their scales lie.

    ```mlir
    #plan.packing<panel, bf16>
    #plan.packing<panel_heads, bf16, 16>
    #plan.packing<panel, i4 group 128 scale f16>
    ```
  }];
  let parameters = (ins "::moe::Layout":$layout, "::moe::FormatAttr":$format,
      DefaultValuedParameter<"int64_t", "0">:$headDim);
  let assemblyFormat = "`<` custom<Layout>($layout) `,` custom<FormatOf>($format) (`,` $headDim^)? `>`";
  let extraClassDeclaration = [{
    // Elements stored as they are.
    static PackingAttr get(::mlir::MLIRContext *context, ::moe::Layout layout,
                           ::mlir::Type element, int64_t headDim = 0) {
      return get(context, layout, ::moe::FormatAttr::get(context, element, 0, {}, false), headDim);
    }
    ::mlir::Type getStorage() const { return getFormat().getElement(); }
  }];
}

def Plan_PoolClass : I32EnumAttr<"PoolClass", "which positions of a pool a token sees", [
    I32EnumAttrCase<"AllPositions", 0, "all_positions">,
    I32EnumAttrCase<"Chunk", 1, "chunk">]> {
  let cppNamespace = "::moe::plan";
  let genSpecializedAttr = 0;
}

def Plan_ProgramKind : I32EnumAttr<"ProgramKind", "what a program is for", [
    I32EnumAttrCase<"Step", 0, "step">,
    I32EnumAttrCase<"Vision", 1, "vision">]> {
  let cppNamespace = "::moe::plan";
  let genSpecializedAttr = 0;
}

def Plan_TensorSpecAttr : AttrDef<Plan_Dialect, "TensorSpec"> {
  let mnemonic = "spec";
  let summary = "an input or output of a program";
  let description = [{
    Its name says what it means; elements are dense, in row-major order. A dimension is a constant
    or one of

    - `T`, the tokens of a step (tiles, of a program of kind `vision`), or `R`, its rows of which
      something is wanted: as the first dimension alone; such inputs are new in each step, others
      stay
    - `S`, the sequences that a session may have, or `P`, the pages that each may have

    An input `of` a pool is its block table, `i32[S, P]`: which page holds each 64 positions of a
    sequence.

    ```mlir
    #plan.spec<"tokens" : i32[T]>
    #plan.spec<"logits" : f32[R, 4096]>
    #plan.spec<"chunked_table" : i32[S, P] of @cpu.chunked>
    ```
  }];
  let parameters = (ins "::mlir::StringAttr":$name, "::mlir::Type":$element,
      ArrayRefParameter<"int64_t">:$dims,
      OptionalParameter<"::mlir::FlatSymbolRefAttr">:$pool);
  let assemblyFormat = "`<` custom<Spec>($name, $element, $dims, $pool) `>`";
  let extraClassDeclaration = [{
    // Dimensions that are no constants.
    enum Extent : int64_t { Tokens = -1, Rows = -2, Sequences = -3, Pages = -4 };
  }];
  let genVerifyDecl = 1;
}

#endif
