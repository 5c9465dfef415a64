// The moe dialect: what a Llama 4 model means.
#ifndef MOE_DIALECTS_MOE_MOEDIALECT_TD
#define MOE_DIALECTS_MOE_MOEDIALECT_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"

def Moe_Dialect : Dialect {
  let name = "moe";
  let cppNamespace = "::moe";
  let summary = "the text path of Llama 4: attention with chunks, and mixtures of experts";
  let description = [{
    A model is one function over a ragged batch of tokens. Activations are float32 tensors
    `tokens x channels`; weights are symbols (`moe.weight`) that name bytes of a checkpoint, so the
    IR stays small whatever the size of the model; KV caches are symbols (`moe.cache`) that the ops
    `moe.append`, `moe.attention` and `moe.attention_block` write and read.

    The ops come in two groups: those in the order of the model's math, which the importer makes,
    and the fused ones, whole blocks that become a few kernels each.
  }];
  let useDefaultAttributePrinterParser = 1;
}

class Moe_Attr<string name, string mnemonic_> : AttrDef<Moe_Dialect, name> {
  let mnemonic = mnemonic_;
}

def Moe_SourceAttr : Moe_Attr<"Source", "source"> {
  let summary = "a slice of one tensor of the checkpoint";
  let description = [{
    `offsets` and `sizes` give the slice, in elements, one per dimension of the tensor; `transposed`
    swaps the last two dimensions of the slice after it was taken.

    ```mlir
    #moe.source<"model.layers.0.feed_forward.experts.gate_up_proj", [0, 0, 0], [1, 256, 128], true>
    ```
  }];
  let parameters = (ins "::mlir::StringAttr":$tensor, ArrayRefParameter<"int64_t">:$offsets,
      ArrayRefParameter<"int64_t">:$sizes, DefaultValuedParameter<"bool", "false">:$transposed);
  let assemblyFormat = [{
    `<` $tensor `,` `[` $offsets `]` `,` `[` $sizes `]` (`,` $transposed^)? `>`
  }];
}

def Moe_Layout : I32EnumAttr<"Layout", "how a packed weight lies in memory", [
    I32EnumAttrCase<"Rows", 0, "rows">,
    I32EnumAttrCase<"Panel", 1, "panel">,
    I32EnumAttrCase<"PanelGateUp", 2, "panel_gate_up">,
    I32EnumAttrCase<"PanelHeads", 3, "panel_heads">,
    I32EnumAttrCase<"Fragments", 4, "fragments">,
    I32EnumAttrCase<"FragmentsGateUp", 5, "fragments_gate_up">]> {
  let cppNamespace = "::moe";
  let genSpecializedAttr = 0;
}

def Moe_FormatAttr : Moe_Attr<"Format", "format"> {
  let summary = "how the elements of a weight are stored";
  let description = [{
    `f32` or `bf16` as they are, or codes of `i4`, `i8` or `f8E4M3FN`, of which `group` neighbouring
    columns of a row share a scale: `element = (code - zero) * scale`. Codes of integers are in
    offset binary, with the zero at 8 or 128, unless the groups of `i4` have `zeros` of their own.

    ```mlir
    #moe.format<i4 group 128 scale f16>
    #moe.format<i4 group 128 scale f16 zeros>
    ```
  }];
  let parameters = (ins "::mlir::Type":$element, DefaultValuedParameter<"int64_t", "0">:$group,
      "::mlir::Type":$scale, DefaultValuedParameter<"bool", "false">:$zeros);
  let assemblyFormat = "`<` custom<Format>($element, $group, $scale, $zeros) `>`";
  let extraClassDeclaration = [{
    static FormatAttr get(::mlir::MLIRContext *context, const ::moe::WeightFormat &format);
    ::moe::WeightFormat getFormat() const;
    bool isQuantized() const { return getGroup() != 0; }
  }];
  let genVerifyDecl = 1;
}

def Moe_PackingAttr : Moe_Attr<"Packing", "packing"> {
  let summary = "the storage format and layout of a weight in the plan";
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

    Codes (see #moe.format) are packed in rows, panels and fragments too; `Packing.h` says where they
    and their scales lie.

    ```mlir
    #moe.packing<panel, bf16>
    #moe.packing<panel_heads, bf16, 16>
    #moe.packing<panel, i4 group 128 scale f16>
    ```
  }];
  let parameters = (ins EnumParameter<Moe_Layout>:$layout, "::moe::FormatAttr":$format,
      DefaultValuedParameter<"int64_t", "0">:$headDim);
  let assemblyFormat = "`<` $layout `,` custom<FormatOf>($format) (`,` $headDim^)? `>`";
  let extraClassDeclaration = [{
    // Elements stored as they are.
    static PackingAttr get(::mlir::MLIRContext *context, ::moe::Layout layout,
                           ::mlir::Type element, int64_t headDim = 0) {
      return get(context, layout, FormatAttr::get(context, element, 0, {}, false), headDim);
    }
    ::mlir::Type getStorage() const { return getFormat().getElement(); }
  }];
}

#endif
