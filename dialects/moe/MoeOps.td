// The ops of the moe dialect. Shapes: T tokens, D hidden, H query heads, G key-value heads, d head
// dimension, E routed experts, k experts per token, I expert width, V vocabulary. Of pictures: N
// tiles of S x S pixels, g x g patches a tile, p x p pixels a patch, P = g * g + 1 rows a tile in
// the tower: its patches row by row, then its class row; C channels of the tower. g and p are from
// 1 to 1024.
#ifndef MOE_DIALECTS_MOE_MOEOPS_TD
#define MOE_DIALECTS_MOE_MOEOPS_TD

include "dialects/moe/MoeDialect.td"
include "dialects/moe/MoeInterfaces.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

// An op that says what it reads weights for.
def Moe_ReadsWeights : DeclareOpInterfaceMethods<Moe_WeightUser>;

class Moe_Op<string mnemonic, list<Trait> traits = []> : Op<Moe_Dialect, mnemonic, traits>;

def Moe_Activations : 2DTensorOf<[F32]>;
def Moe_Indices : 1DTensorOf<[I32]>;
def Moe_Vector : 1DTensorOf<[F32, F16, BF16]>;
def Moe_Matrix : 2DTensorOf<[F32, F16, BF16]>;
def Moe_Matrices : 3DTensorOf<[F32, F16, BF16]>;
def Moe_Tiles : 4DTensorOf<[UI8]>;

// Positions and sequences describe the same tokens.
def Moe_SameTokens : AllTypesMatch<["positions", "sequences"]>;

//===----------------------------------------------------------------------===//
// Weights and caches
//===----------------------------------------------------------------------===//

def Moe_WeightOp : Moe_Op<"weight", [Symbol]> {
  let summary = "a weight of the model, by the bytes of the checkpoint that it is made of";
  let description = [{
    The elements of the weight, in row-major order, are those of its sources one after the other.
    Joined `along` dimension d, they are so for each index of the dimensions before d: there a
    source has as many equal parts as there are indices, and the parts take turns.

    - (C1) the sources have as many elements as the type
    - (C2) the type is static, of f32, f16 or bf16
    - (C3) `along` is a dimension of the type, and the indices before it divide the elements of
      every source
    - (C4) a packing's format is f32, bf16 or codes whose group divides the last dimension; roles
      but `rows` need two dimensions or more, `gate_up` an even number of rows, `heads` a head
      dimension that divides the rows
    - (C5) `encoded` is a format of codes whose group divides the last dimension

    `encoded` says that the checkpoint has every source as codes of that format, and not as
    elements. Reading a source gives elements all the same; the tensors `<tensor>:scale` and, where
    the format has zeros, `<tensor>:zero` have one element for each group of the tensor. Groups run
    along the last dimension of a source, so along the last but one of the tensor if it is
    transposed, and no source begins or ends inside of a group.

    ```mlir
    moe.weight @layers.0.q : tensor<256x256xbf16> from
        [#moe.source<"model.layers.0.self_attn.q_proj.weight", [0, 0], [256, 256]>]
        encoded #moe.format<i4 group 128 scale bf16> packed #moe.packing<matrix, bf16>
    moe.weight @layers.0.moe.gate_up : tensor<16x256x256xbf16> from
        [#moe.source<"model.layers.0.feed_forward.experts.{}.gate_proj.weight", [0, 0, 0], [16, 128, 256]>,
         #moe.source<"model.layers.0.feed_forward.experts.{}.up_proj.weight", [0, 0, 0], [16, 128, 256]>]
        along 1
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttrOf<AnyRankedTensor>:$type,
      TypedArrayAttrBase<Moe_SourceAttr, "array of sources">:$sources,
      OptionalAttr<Moe_PackingAttr>:$packing, OptionalAttr<Moe_FormatAttr>:$encoding,
      DefaultValuedOptionalAttr<I64Attr, "0">:$along);
  let assemblyFormat = [{
    $sym_name `:` $type `from` $sources (`along` $along^)? (`encoded` qualified($encoding)^)?
    (`packed` qualified($packing)^)? attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_CacheOp : Moe_Op<"cache", [Symbol]> {
  let summary = "the keys and values of one layer, of all sequences";
  let description = [{
    With a `chunk` of C, a query at position p sees the positions `(p / C) * C` to p, otherwise 0
    to p.

    An element of `i8` means codes: each key and each value of a head is `scale * code`, where the
    scale is its largest magnitude / 127 and -127 <= code <= 127.

    - (C1) `heads`, `head_dim` and `chunk` are positive
    - (C2) `element` is f32, bf16, f16 or i8

    ```mlir
    moe.cache @layers.0.kv heads 2 head_dim 64 chunk 128 : bf16
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, I64Attr:$heads, I64Attr:$head_dim,
      OptionalAttr<I64Attr>:$chunk, TypeAttr:$element);
  let assemblyFormat = [{
    $sym_name `heads` $heads `head_dim` $head_dim (`chunk` $chunk^)? `:` $element attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_LoadWeightOp : Moe_Op<"load_weight", [
    Pure, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "the value of a weight";
  let description = [{
    - (C1) `weight` names a `moe.weight` of the result's type

    ```mlir
    %w = moe.load_weight @layers.0.q : tensor<256x256xbf16>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$weight);
  let results = (outs AnyStaticShapeTensor:$result);
  let assemblyFormat = "$weight `:` type($result) attr-dict";
}

//===----------------------------------------------------------------------===//
// The model in the order of its math
//===----------------------------------------------------------------------===//

def Moe_EmbedOp : Moe_Op<"embed", [Pure, Moe_ReadsWeights, AttrSizedOperandSegments]> {
  let summary = "rows of the embedding table, and of pictures";
  let description = [{
    A token whose element of `image_rows` is not negative takes that row of `images`, as it is, in
    place of the table's.

    - `tokens`: T; `table`: V x D; `images`: R x D; `image_rows`: T; result: T x D
    - (C1) the shapes agree
    - (C2) there are both `images` and `image_rows`, or neither

    ```mlir
    %h = moe.embed %tokens, %table : tensor<?xi32>, tensor<4096x256xbf16> -> tensor<?x256xf32>
    %i = moe.embed %tokens, %table images %images, %image_rows : tensor<?x256xf32>, tensor<?xi32>
        : tensor<?xi32>, tensor<4096x256xbf16> -> tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Indices:$tokens, Moe_Matrix:$table, Optional<Moe_Activations>:$images,
      Optional<Moe_Indices>:$image_rows);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $tokens `,` $table (`images` $images^ `,` $image_rows `:` type($images) `,` type($image_rows))?
    `:` type($tokens) `,` type($table) `->` type($result) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_RmsNormOp : Moe_Op<"rms_norm", [
    Pure, Moe_ReadsWeights, AllTypesMatch<["x", "result"]>]> {
  let summary = "x / rms(x) * weight, over the channels of each token";
  let description = [{
    `y = x * rsqrt(mean(x^2) + eps) * w`; a model in bf16 rounds before the product with `w`.

    - `x`, result: T x D; `weight`: D
    - (C1) `weight` has as many elements as `x` has channels
    - (C2) `eps > 0`

    ```mlir
    %y = moe.rms_norm %x, %w eps 1.0e-5 : tensor<?x256xf32>, tensor<256xbf16>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Vector:$weight, F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$x `,` $weight `eps` $eps `:` type($x) `,` type($weight) attr-dict";
  let hasVerifier = 1;
}

def Moe_LinearOp : Moe_Op<"linear", [Pure, Moe_ReadsWeights]> {
  let summary = "x * transpose(weight)";
  let description = [{
    - `x`: T x K; `weight`: N x K; result: T x N
    - (C1) the shapes agree

    ```mlir
    %q = moe.linear %x, %w : tensor<?x256xf32>, tensor<128x256xbf16> -> tensor<?x128xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Matrix:$weight);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $weight `:` type($x) `,` type($weight) `->` type($result) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_RopeTableOp : Moe_Op<"rope_table", [Pure]> {
  let summary = "cosines and sines of the rotary embedding, for each token";
  let description = [{
    `result[t][2j] = cos(a)`, `result[t][2j+1] = sin(a)` with `a = float32(position) * frequency[j]`,
    rounded to float32, then a sine with full range reduction: at long positions a more exact angle
    gives other results than the reference.

    - `positions`: T; `frequencies`: d/2, radians per position; result: T x d
    - (C1) the result has two channels for each frequency

    ```mlir
    %t = moe.rope_table %positions [1.0, 0.1] : tensor<?xi32> -> tensor<?x4xf32>
    ```
  }];
  let arguments = (ins Moe_Indices:$positions, DenseF32ArrayAttr:$frequencies);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$positions $frequencies `:` type($positions) `->` type($result) attr-dict";
  let hasVerifier = 1;
}

def Moe_RopeOp : Moe_Op<"rope", [Pure, AllTypesMatch<["x", "result"]>]> {
  let summary = "rotate the channel pairs (2j, 2j+1) of each head";
  let description = [{
    - `x`, result: T x (heads * d); `table`: T x d, of `moe.rope_table`
    - (C1) d is even and divides the channels of `x`
    - (C2) `table` has a row for each token

    ```mlir
    %r = moe.rope %q, %t : tensor<?x256xf32>, tensor<?x64xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Activations:$table);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$x `,` $table `:` type($x) `,` type($table) attr-dict";
  let hasVerifier = 1;
}

def Moe_HeadNormOp : Moe_Op<"head_norm", [Pure, AllTypesMatch<["x", "result"]>]> {
  let summary = "x / rms(x) over each head, without a weight (QK norm)";
  let description = [{
    - `x`, result: T x (heads * head_dim)
    - (C1) `head_dim` is positive and divides the channels
    - (C2) `eps > 0`

    ```mlir
    %n = moe.head_norm %q head_dim 64 eps 1.0e-5 : tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, I64Attr:$head_dim, F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$x `head_dim` $head_dim `eps` $eps `:` type($x) attr-dict";
  let hasVerifier = 1;
}

def Moe_TemperatureOp : Moe_Op<"temperature", [Pure, AllTypesMatch<["x", "result"]>]> {
  let summary = "scale the queries of late positions";
  let description = [{
    `y = x * (1 + scale * ln(1 + floor((position + 1) / floor)))`

    - `x`, result: T x channels; `positions`: T
    - (C1) `floor > 0`
    - (C2) each token has a position

    ```mlir
    %s = moe.temperature %q, %positions scale 0.1 floor 8192.0 : tensor<?x256xf32>, tensor<?xi32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Indices:$positions, F32Attr:$scale, F32Attr:$floor);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $positions `scale` $scale `floor` $floor `:` type($x) `,` type($positions) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_AppendOp : Moe_Op<"append", [DeclareOpInterfaceMethods<SymbolUserOpInterface>,
                                     AllTypesMatch<["keys", "values"]>, Moe_SameTokens,
                                     MemoryEffects<[MemWrite]>]> {
  let summary = "put the keys and values of the step into a cache";
  let description = [{
    - `keys`, `values`: T x (G * d); `positions`, `sequences`: T
    - (C1) `cache` names a `moe.cache` of G heads of dimension d
    - (C2) each token has a position

    ```mlir
    moe.append @layers.0.kv, %k, %v, %positions, %sequences : tensor<?x128xf32>, tensor<?xi32>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$cache, Moe_Activations:$keys, Moe_Activations:$values,
      Moe_Indices:$positions, Moe_Indices:$sequences);
  let assemblyFormat = [{
    $cache `,` $keys `,` $values `,` $positions `,` $sequences `:` type($keys) `,`
    type($positions) attr-dict
  }];
}

def Moe_AttentionOp : Moe_Op<"attention", [DeclareOpInterfaceMethods<SymbolUserOpInterface>,
    AllTypesMatch<["queries", "result"]>, Moe_SameTokens, MemoryEffects<[MemRead]>]> {
  let summary = "softmax(q k / sqrt(d)) v over the visible positions of each token's sequence";
  let description = [{
    Query head i uses key-value head `i / (H / G)`. Which positions are visible is the cache's
    affair.

    - `queries`, result: T x (H * d)
    - (C1) `cache` names a `moe.cache` whose d divides the channels, and whose G divides H
    - (C2) each token has a position

    ```mlir
    %o = moe.attention @layers.0.kv, %q, %positions, %sequences : tensor<?x256xf32>, tensor<?xi32>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$cache, Moe_Activations:$queries, Moe_Indices:$positions,
      Moe_Indices:$sequences);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $cache `,` $queries `,` $positions `,` $sequences `:` type($queries) `,`
    type($positions) attr-dict
  }];
}

def Moe_SwigluOp : Moe_Op<"swiglu", [Pure, SameOperandsAndResultType]> {
  let summary = "silu(gate) * up";
  let description = [{
    ```mlir
    %y = moe.swiglu %gate, %up : tensor<?x128xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$gate, Moe_Activations:$up);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$gate `,` $up `:` type($result) attr-dict";
}

def Moe_AddOp : Moe_Op<"add", [Pure, SameOperandsAndResultType, Commutative]> {
  let summary = "a + b";
  let description = [{
    ```mlir
    %y = moe.add %a, %b : tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$a, Moe_Activations:$b);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$a `,` $b `:` type($result) attr-dict";
}

def Moe_RouteOp : Moe_Op<"route", [Pure]> {
  let summary = "choose k experts for each token";
  let description = [{
    Takes the `k` largest logits of each token, the largest first, ties to the lower expert. The
    score of a chosen expert is the sigmoid of its logit.

    - `logits`: T x E; `experts`, `scores`: T x k
    - (C1) `0 < k <= E`
    - (C2) the shapes agree

    ```mlir
    %e, %s = moe.route %l top 1 : tensor<?x16xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$logits, I64Attr:$k);
  let results = (outs 2DTensorOf<[I32]>:$experts, Moe_Activations:$scores);
  let assemblyFormat = [{
    $logits `top` $k `:` type($logits) `->` type($experts) `,` type($scores) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_ExpertsOp : Moe_Op<"experts", [
    Pure, Moe_ReadsWeights, AllTypesMatch<["x", "result"]>]> {
  let summary = "the chosen experts of each token, summed";
  let description = [{
    The score scales the expert's *input*: `sum over s of down_e(swiglu(gate_e(u), up_e(u)))` with
    `e = experts[t][s]` and `u = x[t] * scores[t][s]`.

    - `x`, result: T x D; `experts`, `scores`: T x k; `gate`, `up`: E x I x D; `down`: E x D x I
    - (C1) the shapes agree

    ```mlir
    %y = moe.experts %x, %e, %s, %gate, %up, %down : tensor<?x256xf32>, tensor<?x1xi32>,
        tensor<?x1xf32>, tensor<8x128x256xbf16>, tensor<8x128x256xbf16>, tensor<8x256x128xbf16>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, 2DTensorOf<[I32]>:$experts, Moe_Activations:$scores,
      Moe_Matrices:$gate, Moe_Matrices:$up, Moe_Matrices:$down);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $experts `,` $scores `,` $gate `,` $up `,` $down `:` type($x) `,` type($experts) `,`
    type($scores) `,` type($gate) `,` type($up) `,` type($down) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_SelectRowsOp : Moe_Op<"select_rows", [Pure]> {
  let summary = "the tokens whose logits are wanted";
  let description = [{
    - `x`: T x D; `rows`: R; result: R x D
    - (C1) `x` and the result have the same channels

    ```mlir
    %r = moe.select_rows %h, %rows : tensor<?x256xf32>, tensor<?xi32> -> tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Indices:$rows);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$x `,` $rows `:` type($x) `,` type($rows) `->` type($result) attr-dict";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Pictures, in the order of the vision tower's math
//===----------------------------------------------------------------------===//

def Moe_PatchesOp : Moe_Op<"patches", [Pure]> {
  let summary = "cut tiles into patches, and normalize their pixels";
  let description = [{
    A row is a patch, tile after tile, row after row of each. Its element `(c * p + y) * p + x` is
    channel c of the pixel in row y and column x of the patch. The value v of a pixel u is rounded
    to bfloat16 three times, whatever the model's type, with `mean` and `std` rounded before:

    `v = bf16(bf16(bf16(float32(u) * rescale) - mean[c]) / std[c])`

    - `tiles`: N x S x S x 3, rows of pixels; `mean`, `std`: one for each channel;
      result: (N * g * g) x (3 * p * p) with g = S / p
    - (C1) `patch` and g are in range, and S is `patch` times g; the shapes agree
    - (C2) `rescale` and each `std` are positive; there are three of `mean` and `std`

    ```mlir
    %x = moe.patches %tiles patch 14 rescale 0.00392156886 mean [0.5, 0.5, 0.5] std [0.5, 0.5, 0.5]
        : tensor<?x56x56x3xui8> -> tensor<?x588xf32>
    ```
  }];
  let arguments = (ins Moe_Tiles:$tiles, I64Attr:$patch, F32Attr:$rescale, DenseF32ArrayAttr:$mean,
      DenseF32ArrayAttr:$std);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $tiles `patch` $patch `rescale` $rescale `mean` $mean `std` $std `:` type($tiles) `->`
    type($result) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_AppendClassOp : Moe_Op<"append_class", [Pure, Moe_ReadsWeights]> {
  let summary = "the class row, after the patches of each tile";
  let description = [{
    - `x`: (N * g * g) x C; `class_row`: C; result: (N * P) x C
    - (C1) `grid`, g, is in range; the shapes agree

    ```mlir
    %y = moe.append_class %x, %class grid 4 : tensor<?x64xf32>, tensor<64xbf16> -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Vector:$class_row, I64Attr:$grid);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $class_row `grid` $grid `:` type($x) `,` type($class_row) `->` type($result) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_AddPositionsOp : Moe_Op<"add_positions", [
    Pure, Moe_ReadsWeights, AllTypesMatch<["x", "result"]>]> {
  let summary = "add to each row of a tile that of the table";
  let description = [{
    - `x`, result: (N * P) x C; `table`: P x C
    - (C1) the shapes agree

    ```mlir
    %y = moe.add_positions %x, %table : tensor<?x64xf32>, tensor<17x64xbf16>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Matrix:$table);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$x `,` $table `:` type($x) `,` type($table) attr-dict";
  let hasVerifier = 1;
}

def Moe_LayerNormOp : Moe_Op<"layer_norm", [
    Pure, Moe_ReadsWeights, AllTypesMatch<["x", "result"]>]> {
  let summary = "(x - mean(x)) / deviation(x) * weight + bias, over the channels of each row";
  let description = [{
    `y = (x - mean(x)) * rsqrt(mean((x - mean(x))^2) + eps) * w + b`; a model in bf16 rounds y alone.

    - `x`, result: rows x C; `weight`, `bias`: C
    - (C1) the shapes agree
    - (C2) `eps > 0`

    ```mlir
    %y = moe.layer_norm %x, %w, %b eps 1.0e-5 : tensor<?x64xf32>, tensor<64xbf16>, tensor<64xbf16>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Vector:$weight, Moe_Vector:$bias, F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $weight `,` $bias `eps` $eps `:` type($x) `,` type($weight) `,` type($bias) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_LinearBiasOp : Moe_Op<"linear_bias", [Pure, Moe_ReadsWeights]> {
  let summary = "x * transpose(weight) + bias";
  let description = [{
    A model in bf16 rounds the sum alone.

    - `x`: rows x K; `weight`: N x K; `bias`: N; result: rows x N
    - (C1) the shapes agree

    ```mlir
    %q = moe.linear_bias %x, %w, %b
        : tensor<?x64xf32>, tensor<256x64xbf16>, tensor<256xbf16> -> tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Matrix:$weight, Moe_Vector:$bias);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $weight `,` $bias `:` type($x) `,` type($weight) `,` type($bias) `->` type($result)
    attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_PatchRopeOp : Moe_Op<"patch_rope", [Pure, AllTypesMatch<["x", "result"]>]> {
  let summary = "rotate channel pairs of each head by the patch's place in its tile";
  let description = [{
    With `f[i] = theta^(-4 i / d)` for i below d / 4, the pair j, channels 2j and 2j + 1, of the
    patch in row y and column x is turned by `(x + 1) * f[j]`, of the second half of the pairs by
    `(y + 1) * f[j - d / 4]`. Angles are products of float32. The class row is not turned.

    - `x`, result: (N * P) x (heads * d)
    - (C1) `heads` is positive and divides the channels; d is a multiple of 4
    - (C2) `grid`, g, is in range, and P divides the rows
    - (C3) `theta > 0`

    ```mlir
    %r = moe.patch_rope %q heads 4 grid 4 theta 1.0e4 : tensor<?x64xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, I64Attr:$heads, I64Attr:$grid, F32Attr:$theta);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$x `heads` $heads `grid` $grid `theta` $theta `:` type($x) attr-dict";
  let hasVerifier = 1;
}

def Moe_TileAttentionOp : Moe_Op<"tile_attention", [
    Pure, AllTypesMatch<["queries", "keys", "values", "result"]>]> {
  let summary = "softmax(q k / sqrt(d)) v over all rows of each row's tile";
  let description = [{
    - `queries`, `keys`, `values`, result: (N * P) x (heads * d)
    - (C1) `heads` is positive and divides the channels
    - (C2) `grid`, g, is in range, and P divides the rows

    ```mlir
    %o = moe.tile_attention %q, %k, %v heads 4 grid 4 : tensor<?x64xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$queries, Moe_Activations:$keys, Moe_Activations:$values,
      I64Attr:$heads, I64Attr:$grid);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $queries `,` $keys `,` $values `heads` $heads `grid` $grid `:` type($queries) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_GeluOp : Moe_Op<"gelu", [Pure, SameOperandsAndResultType]> {
  let summary = "x * (1 + erf(x / sqrt(2))) / 2: the exact one, not that of tanh";
  let description = [{
    ```mlir
    %y = moe.gelu %x : tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$x `:` type($x) attr-dict";
}

def Moe_DropClassOp : Moe_Op<"drop_class", [Pure]> {
  let summary = "the patches of each tile, without its class row";
  let description = [{
    - `x`: (N * P) x C; result: (N * g * g) x C
    - (C1) `grid`, g, is in range; the shapes agree

    ```mlir
    %y = moe.drop_class %x grid 4 : tensor<?x64xf32> -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, I64Attr:$grid);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$x `grid` $grid `:` type($x) `->` type($result) attr-dict";
  let hasVerifier = 1;
}

def Moe_PixelShuffleOp : Moe_Op<"pixel_shuffle", [Pure]> {
  let summary = "one row of each two by two neighbouring patches";
  let description = [{
    Channel c of the patch in row 2i + a and column 2j + b of a tile becomes channel
    `(2 a + b) * C + c` of the tile's row `i * g / 2 + j`.

    - `x`: (N * g * g) x C; result: (N * g * g / 4) x 4C
    - (C1) `grid`, g, is in range and even; the shapes agree

    ```mlir
    %y = moe.pixel_shuffle %x grid 4 : tensor<?x64xf32> -> tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, I64Attr:$grid);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = "$x `grid` $grid `:` type($x) `->` type($result) attr-dict";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Fused: whole blocks
//===----------------------------------------------------------------------===//

def Moe_QkvOp : Moe_Op<"qkv", [Pure, Moe_ReadsWeights]> {
  let summary = "rms_norm, then the query, key and value projections as one";
  let description = [{
    - `x`: T x D; `norm`: D; `weight`: N x D, the rows of q, then k, then v; result: T x N
    - (C1) the shapes agree
    - (C2) `eps > 0`

    ```mlir
    %qkv = moe.qkv %h, %norm, %w eps 1.0e-5
        : tensor<?x256xf32>, tensor<256xbf16>, tensor<512x256xbf16> -> tensor<?x512xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Vector:$norm, Moe_Matrix:$weight, F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $norm `,` $weight `eps` $eps `:` type($x) `,` type($norm) `,` type($weight) `->`
    type($result) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_AttentionBlockOp : Moe_Op<"attention_block", [
    DeclareOpInterfaceMethods<SymbolUserOpInterface>, Moe_SameTokens,
    MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "finish q, k and v, append to the cache, attend";
  let description = [{
    Splits `qkv` into H query heads, G key heads and G value heads. With a `table`, rotates q and k;
    with `qk_norm`, then norms each head of both with that eps; with `temperature_scale` and
    `temperature_floor`, scales q. Appends k and v to the cache, and attends.

    - `qkv`: T x ((H + 2 G) * d); `table`: T x d; result: T x (H * d)
    - (C1) `cache` names a `moe.cache`; with its G and d the shapes agree, and G divides H; d is even
      if there is a table
    - (C2) the temperature has both a scale and a positive floor, or neither
    - (C3) `qk_norm` is positive

    ```mlir
    %o = moe.attention_block @layers.0.kv, %qkv, %positions, %sequences rope %t : tensor<?x64xf32>
        {qk_norm = 1.0e-5 : f32} : tensor<?x512xf32>, tensor<?xi32> -> tensor<?x256xf32>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$cache, Moe_Activations:$qkv, Moe_Indices:$positions,
      Moe_Indices:$sequences, Optional<Moe_Activations>:$table, OptionalAttr<F32Attr>:$qk_norm,
      OptionalAttr<F32Attr>:$temperature_scale, OptionalAttr<F32Attr>:$temperature_floor);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $cache `,` $qkv `,` $positions `,` $sequences (`rope` $table^ `:` type($table))? attr-dict `:`
    type($qkv) `,` type($positions) `->` type($result)
  }];
}

def Moe_LinearResidualOp : Moe_Op<"linear_residual", [
    Pure, Moe_ReadsWeights, AllTypesMatch<["residual", "result"]>]> {
  let summary = "residual + x * transpose(weight)";
  let description = [{
    - `x`: T x K; `weight`: N x K; `residual`, result: T x N
    - (C1) the shapes agree

    ```mlir
    %h1 = moe.linear_residual %o, %w, %h
        : tensor<?x256xf32>, tensor<256x256xbf16>, tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Matrix:$weight, Moe_Activations:$residual);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $weight `,` $residual `:` type($x) `,` type($weight) `,` type($residual) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_MoeBlockOp : Moe_Op<"moe_block", [
    Pure, Moe_ReadsWeights, AllTypesMatch<["x", "result"]>]> {
  let summary = "x + shared_expert(n) + experts(n) with n = rms_norm(x)";
  let description = [{
    The shared expert has weights of its own, which may be stored in another format than those of
    the routed experts. The rows of a `gate_up` are the gate's, then the up projection's. The router
    sees n; the score scales the input of a routed expert.

    - `x`, result: T x D; `norm`: D; `router`: E x D; `shared_gate_up`: 2I x D;
      `gate_up`: E x 2I x D; `shared_down`: D x I; `down`: E x D x I
    - (C1) the shapes agree
    - (C2) `0 < k <= E`
    - (C3) `eps > 0`

    ```mlir
    %h1 = moe.moe_block %h, %norm, %router, %sgu, %gu, %sd, %d top 1 eps 1.0e-5
        : tensor<?x256xf32>, tensor<256xbf16>, tensor<8x256xbf16>, tensor<256x256xbf16>,
          tensor<8x256x256xbf16>, tensor<256x128xbf16>, tensor<8x256x128xbf16>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Vector:$norm, Moe_Matrix:$router,
      Moe_Matrix:$shared_gate_up, Moe_Matrices:$gate_up, Moe_Matrix:$shared_down,
      Moe_Matrices:$down, I64Attr:$k, F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $norm `,` $router `,` $shared_gate_up `,` $gate_up `,` $shared_down `,` $down `top` $k
    `eps` $eps `:` type($x) `,` type($norm) `,` type($router) `,` type($shared_gate_up) `,`
    type($gate_up) `,` type($shared_down) `,` type($down) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_MlpBlockOp : Moe_Op<"mlp_block", [
    Pure, Moe_ReadsWeights, AllTypesMatch<["x", "result"]>]> {
  let summary = "x + down(swiglu(gate(n), up(n))) with n = rms_norm(x)";
  let description = [{
    - `x`, result: T x D; `norm`: D; `gate_up`: 2I x D, the gate's rows first; `down`: D x I
    - (C1) the shapes agree
    - (C2) `eps > 0`

    ```mlir
    %h1 = moe.mlp_block %h, %norm, %gate_up, %down eps 1.0e-5
        : tensor<?x256xf32>, tensor<256xbf16>, tensor<512x256xbf16>, tensor<256x256xbf16>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Vector:$norm, Moe_Matrix:$gate_up, Moe_Matrix:$down,
      F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $norm `,` $gate_up `,` $down `eps` $eps `:` type($x) `,` type($norm) `,` type($gate_up)
    `,` type($down) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_HeadOp : Moe_Op<"head", [Pure, Moe_ReadsWeights]> {
  let summary = "the logits of the wanted tokens";
  let description = [{
    `rms_norm(x[rows]) * transpose(weight)`

    - `x`: T x D; `rows`: R; `norm`: D; `weight`: V x D; result: R x V
    - (C1) the shapes agree
    - (C2) `eps > 0`

    ```mlir
    %l = moe.head %h, %rows, %norm, %w eps 1.0e-5 : tensor<?x256xf32>, tensor<?xi32>,
        tensor<256xbf16>, tensor<4096x256xbf16> -> tensor<?x4096xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Indices:$rows, Moe_Vector:$norm, Moe_Matrix:$weight,
      F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $rows `,` $norm `,` $weight `eps` $eps `:` type($x) `,` type($rows) `,` type($norm) `,`
    type($weight) `->` type($result) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_FinalNormOp : Moe_Op<"final_norm", [Pure, Moe_ReadsWeights]> {
  let summary = "the hidden states of the wanted tokens, as embeddings of a text";
  let description = [{
    `rms_norm(x[rows])`: what `moe.head` multiplies with its weight.

    - `x`: T x D; `rows`: R; `norm`: D; result: R x D
    - (C1) the shapes agree
    - (C2) `eps > 0`

    ```mlir
    %n = moe.final_norm %h, %rows, %norm eps 1.0e-5 : tensor<?x256xf32>, tensor<?xi32>,
        tensor<256xbf16> -> tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Indices:$rows, Moe_Vector:$norm, F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $rows `,` $norm `eps` $eps `:` type($x) `,` type($rows) `,` type($norm) `->` type($result)
    attr-dict
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Fused: pictures
//===----------------------------------------------------------------------===//

def Moe_PatchEmbedOp : Moe_Op<"patch_embed", [Pure, Moe_ReadsWeights]> {
  let summary = "what enters the tower: patches, linear, class row, positions, layer_norm";
  let description = [{
    - `tiles`: N x S x S x 3; `weight`: C x (3 * p * p), columns as `moe.patches` has them;
      `class_row`, `norm`, `norm_bias`: C; `positions`: P x C; result: (N * P) x C
    - (C1) `patch` and g are in range, and S is `patch` times g; the shapes agree
    - (C2) `rescale` and each `std` are positive; there are three of `mean` and `std`
    - (C3) `eps > 0`

    ```mlir
    %x = moe.patch_embed %tiles, %w, %class, %positions, %norm, %norm_bias patch 14
        rescale 0.00392156886 mean [0.5, 0.5, 0.5] std [0.5, 0.5, 0.5] eps 1.0e-5
        : tensor<?x56x56x3xui8>, tensor<64x588xbf16>, tensor<64xbf16>, tensor<17x64xbf16>,
          tensor<64xbf16>, tensor<64xbf16> -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins Moe_Tiles:$tiles, Moe_Matrix:$weight, Moe_Vector:$class_row,
      Moe_Matrix:$positions, Moe_Vector:$norm, Moe_Vector:$norm_bias, I64Attr:$patch,
      F32Attr:$rescale, DenseF32ArrayAttr:$mean, DenseF32ArrayAttr:$std, F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $tiles `,` $weight `,` $class_row `,` $positions `,` $norm `,` $norm_bias `patch` $patch
    `rescale` $rescale `mean` $mean `std` $std `eps` $eps `:` type($tiles) `,` type($weight) `,`
    type($class_row) `,` type($positions) `,` type($norm) `,` type($norm_bias) `->` type($result)
    attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_TowerQkvOp : Moe_Op<"tower_qkv", [Pure, Moe_ReadsWeights]> {
  let summary = "layer_norm, the query, key and value projections as one, patch_rope of q and k";
  let description = [{
    - `x`: (N * P) x C; `norm`, `norm_bias`: C; `weight`: 3A x C and `bias`: 3A, the rows of q, then
      k, then v, of A = heads * d each; result: (N * P) x 3A
    - (C1) the shapes agree; `grid`, g, is in range, and P divides the rows
    - (C2) `heads` is positive and divides A; d is a multiple of 4
    - (C3) `theta > 0`, `eps > 0`

    ```mlir
    %qkv = moe.tower_qkv %x, %norm, %norm_bias, %w, %b heads 4 grid 4 theta 1.0e4 eps 1.0e-5
        : tensor<?x64xf32>, tensor<64xbf16>, tensor<64xbf16>, tensor<192x64xbf16>, tensor<192xbf16>
        -> tensor<?x192xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Vector:$norm, Moe_Vector:$norm_bias,
      Moe_Matrix:$weight, Moe_Vector:$bias, I64Attr:$heads, I64Attr:$grid, F32Attr:$theta,
      F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $norm `,` $norm_bias `,` $weight `,` $bias `heads` $heads `grid` $grid `theta` $theta
    `eps` $eps `:` type($x) `,` type($norm) `,` type($norm_bias) `,` type($weight) `,` type($bias)
    `->` type($result) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_TowerAttentionOp : Moe_Op<"tower_attention", [Pure]> {
  let summary = "tile_attention of queries, keys and values side by side";
  let description = [{
    - `qkv`: (N * P) x 3A, the channels of q, then k, then v, of A = heads * d each;
      result: (N * P) x A
    - (C1) `heads` is positive and divides A; the shapes agree
    - (C2) `grid`, g, is in range, and P divides the rows

    ```mlir
    %o = moe.tower_attention %qkv heads 4 grid 4 : tensor<?x192xf32> -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$qkv, I64Attr:$heads, I64Attr:$grid);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $qkv `heads` $heads `grid` $grid `:` type($qkv) `->` type($result) attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_ProjectionOp : Moe_Op<"projection", [Pure, Moe_ReadsWeights, AttrSizedOperandSegments]> {
  let summary = "a linear layer of the tower, with what precedes and follows it";
  let description = [{
    `y = n * transpose(weight) + bias` with `n = layer_norm(x)` if there is a `norm`, else x; then
    `moe.gelu` of y if there is a `gelu`; then `residual + y` if there is one.

    - `x`: rows x K; `norm`, `norm_bias`: K; `weight`: N x K; `bias`: N;
      `residual`, result: rows x N
    - (C1) the shapes agree
    - (C2) there are all of `norm`, `norm_bias` and a positive `eps`, or none of them

    ```mlir
    %y = moe.projection %x, %w norm %norm, %norm_bias eps 1.0e-5 : tensor<64xbf16>, tensor<64xbf16>
        bias %b : tensor<256xbf16> gelu : tensor<?x64xf32>, tensor<256x64xbf16> -> tensor<?x256xf32>
    %z = moe.projection %y, %v bias %c : tensor<64xbf16> residual %x : tensor<?x64xf32>
        : tensor<?x256xf32>, tensor<64x256xbf16> -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Matrix:$weight, Optional<Moe_Vector>:$norm,
      Optional<Moe_Vector>:$norm_bias, Optional<Moe_Vector>:$bias,
      Optional<Moe_Activations>:$residual, OptionalAttr<F32Attr>:$eps, UnitAttr:$gelu);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $weight (`norm` $norm^ `,` $norm_bias `eps` $eps `:` type($norm) `,` type($norm_bias))?
    (`bias` $bias^ `:` type($bias))? (`gelu` $gelu^)?
    (`residual` $residual^ `:` type($residual))? `:` type($x) `,` type($weight) `->` type($result)
    attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_TowerOutputOp : Moe_Op<"tower_output", [Pure, Moe_ReadsWeights]> {
  let summary = "what leaves the tower: layer_norm, drop_class, pixel_shuffle";
  let description = [{
    - `x`: (N * P) x C; `norm`, `norm_bias`: C; result: (N * g * g / 4) x 4C
    - (C1) `grid`, g, is in range and even; the shapes agree
    - (C2) `eps > 0`

    ```mlir
    %y = moe.tower_output %x, %norm, %norm_bias grid 4 eps 1.0e-5
        : tensor<?x64xf32>, tensor<64xbf16>, tensor<64xbf16> -> tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Moe_Activations:$x, Moe_Vector:$norm, Moe_Vector:$norm_bias, I64Attr:$grid,
      F32Attr:$eps);
  let results = (outs Moe_Activations:$result);
  let assemblyFormat = [{
    $x `,` $norm `,` $norm_bias `grid` $grid `eps` $eps `:` type($x) `,` type($norm) `,`
    type($norm_bias) `->` type($result) attr-dict
  }];
  let hasVerifier = 1;
}

#endif
