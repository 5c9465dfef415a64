// The moe dialect: what a Llama 4 model means.
#ifndef MOE_DIALECTS_MOE_MOEDIALECT_TD
#define MOE_DIALECTS_MOE_MOEDIALECT_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"

def Moe_Dialect : Dialect {
  let name = "moe";
  let cppNamespace = "::moe";
  let summary = "Llama 4: attention with chunks, mixtures of experts, and a vision tower";
  let description = [{
    A model is one function over a ragged batch of tokens, and where it sees pictures another one,
    over tiles of pixels, whose rows the first takes in place of some tokens' embeddings.
    Activations are float32 tensors `tokens x channels`; weights are symbols (`moe.weight`) that
    name bytes of a checkpoint, so the IR stays small whatever the size of the model; KV caches are
    symbols (`moe.cache`) that the ops `moe.append`, `moe.attention` and `moe.attention_block` write
    and read.

    The ops come in two groups: those in the order of the model's math, which the importer makes,
    and the fused ones, whole blocks that become a few kernels each.
  }];
  let useDefaultAttributePrinterParser = 1;
}

class Moe_Attr<string name, string mnemonic_> : AttrDef<Moe_Dialect, name> {
  let mnemonic = mnemonic_;
}

def Moe_SourceAttr : Moe_Attr<"Source", "source"> {
  let summary = "a slice of one tensor of the checkpoint, or of a stack of tensors";
  let description = [{
    `offsets` and `sizes` give the slice, in elements, one per dimension of the tensor; `transposed`
    swaps the last two dimensions of the slice after it was taken.

    A name with `{}` stands for the stack of the tensors that have a number there, which is the
    index of the first dimension: of the others each tensor has its own. So all experts of a layer
    are one source, however the checkpoint stores them.

    - (C1) there are as many offsets as sizes, none negative; where the slice ends and its elements
      can be counted in 63 bits
    - (C2) a name has at most one `{}`, and then there is a first dimension
    - (C3) transposed are two dimensions or more, besides that of a stack

    ```mlir
    #moe.source<"model.layers.0.feed_forward.experts.gate_up_proj", [0, 0, 0], [16, 256, 128], true>
    #moe.source<"model.layers.0.feed_forward.experts.{}.down_proj.weight", [0, 0, 0], [16, 256, 128]>
    ```
  }];
  let parameters = (ins "::mlir::StringAttr":$tensor, ArrayRefParameter<"int64_t">:$offsets,
      ArrayRefParameter<"int64_t">:$sizes, DefaultValuedParameter<"bool", "false">:$transposed);
  let assemblyFormat = [{
    `<` $tensor `,` `[` $offsets `]` `,` `[` $sizes `]` (`,` $transposed^)? `>`
  }];
  let extraClassDeclaration = [{
    // Whether the tensor is a stack of numbered ones.
    bool isNumbered() const;
    // How many elements the slice has.
    int64_t getNumElements() const;
  }];
  let genVerifyDecl = 1;
}

def Moe_Role : I32EnumAttr<"WeightRole", "what kernels do with a weight", [
    I32EnumAttrCase<"Rows", 0, "rows">,
    I32EnumAttrCase<"Matrix", 1, "matrix">,
    I32EnumAttrCase<"GateUp", 2, "gate_up">,
    I32EnumAttrCase<"Heads", 3, "heads">]> {
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
  let summary = "the role of a weight, and how its elements are stored";
  let description = [{
    The role says what kernels do with the weight, from which a target chooses how it lies in memory
    (#plan.packing):

    - `rows`: rows are read one by one: an embedding, a norm, a router.
    - `matrix`: the last two dimensions `[n, k]` are multiplied with.
    - `gate_up`: a matrix of `n = 2i` rows, the gate rows before the up rows, whose products are
      needed in pairs.
    - `heads`: a matrix whose rows are those of heads, `head_dim` each, which are finished head by
      head.

    ```mlir
    #moe.packing<matrix, bf16>
    #moe.packing<heads, bf16, 16>
    #moe.packing<matrix, i4 group 128 scale f16>
    ```
  }];
  let parameters = (ins EnumParameter<Moe_Role>:$role, "::moe::FormatAttr":$format,
      DefaultValuedParameter<"int64_t", "0">:$headDim);
  let assemblyFormat = "`<` $role `,` custom<FormatOf>($format) (`,` $headDim^)? `>`";
  let extraClassDeclaration = [{
    ::mlir::Type getStorage() const { return getFormat().getElement(); }
  }];
}

#endif
