// The passes of moec, in the order in which a model goes through them (see Pipeline.cpp).
#ifndef MOE_PASSES_PASSES_TD
#define MOE_PASSES_PASSES_TD

include "mlir/Pass/PassBase.td"

//===----------------------------------------------------------------------===//
// Fusion: the model in the order of its math becomes whole blocks
//===----------------------------------------------------------------------===//

def FuseQkv : Pass<"moe-fuse-qkv", "::mlir::ModuleOp"> {
  let summary = "fuse norm, projections and attention into moe.qkv and moe.attention_block";
  let description = [{
    A `moe.rms_norm` whose only users are the projections of q, k and v, with what finishes these
    (`moe.rope`, `moe.head_norm`, `moe.temperature`, each optional) and the `moe.append` and
    `moe.attention` that use them, becomes two ops. The three weights become one, whose rows are
    those of q, then k, then v.

    Nothing changes where a value in between has another user, where the weights differ in element
    type, or where something else may use the cache between the append and the attention.
  }];
}

def FuseMoeBlock : Pass<"moe-fuse-moe-block", "::mlir::ModuleOp"> {
  let summary = "fuse a layer's router, shared and routed experts into moe.moe_block";
  let description = [{
    `h + shared_expert(n) + experts(n)`, added in any order, with `n = rms_norm(h)` becomes one op.
    The shared expert keeps weights of its own, so that its format may differ from that of the routed
    ones, whose weights have a group for each expert. In both the gate's rows come before those of up.
    Nothing changes where the shared expert is not as wide as the routed ones.
  }];
}

def FuseMlp : Pass<"moe-fuse-mlp", "::mlir::ModuleOp"> {
  let summary = "fuse norm, gated MLP and residual add into moe.mlp_block";
  let description = [{
    The weights of gate and up become one, with the gate's rows first.
  }];
}

def FuseOutputProjection : Pass<"moe-fuse-output-projection", "::mlir::ModuleOp"> {
  let summary = "fuse a projection and the residual add into moe.linear_residual";
  let description = [{
    Comes after the fusions of whole MLPs, which end in the same two ops.
  }];
}

def FuseHead : Pass<"moe-fuse-head", "::mlir::ModuleOp"> {
  let summary = "fuse the choice of rows, the last norm and the logits into moe.head";
  let description = [{
    Where a model gives the last norm of the rows too, as hidden states, that becomes a
    `moe.final_norm`.
  }];
}

def FusePatchEmbed : Pass<"moe-fuse-patch-embed", "::mlir::ModuleOp"> {
  let summary = "fuse patches, their projection, class row, positions and norm into moe.patch_embed";
  let description = [{
    Nothing changes where a value in between has another user.
  }];
}

def FuseTowerAttention : Pass<"moe-fuse-tower-attention", "::mlir::ModuleOp"> {
  let summary = "fuse a tower's norm, projections and attention into two ops";
  let description = [{
    A `moe.layer_norm` whose only users are the projections of q, k and v, with the `moe.patch_rope`
    of q and k and the `moe.tile_attention` that uses them, becomes `moe.tower_qkv` and
    `moe.tower_attention`. The three weights become one, whose rows are those of q, then k, then v,
    and so do the three biases.

    Nothing changes where a value in between has another user, or where weights or biases differ in
    element type.
  }];
}

def FuseTowerOutput : Pass<"moe-fuse-tower-output", "::mlir::ModuleOp"> {
  let summary = "fuse a tower's last norm, drop_class and pixel_shuffle into moe.tower_output";
  let description = [{
    Nothing changes where a value in between has another user.
  }];
}

def FuseProjection : Pass<"moe-fuse-projection", "::mlir::ModuleOp"> {
  let summary = "make every linear layer of @vision a moe.projection";
  let description = [{
    With it go a layer norm before it, and after it GELU and then a residual add, where nothing else
    uses the values in between. Comes last of the fusions of the tower.
  }];
}

def DropUnusedWeights : Pass<"moe-drop-unused-weights", "::mlir::ModuleOp"> {
  let summary = "erase the weights that nothing loads";
  let description = [{
    As `symbol-dce` does for private symbols; weights are public, since the plan names them.
  }];
}

//===----------------------------------------------------------------------===//
// Storage
//===----------------------------------------------------------------------===//

def PackWeights : Pass<"moe-pack-weights", "::mlir::ModuleOp"> {
  let summary = "choose for each weight how the plan stores it";
  let description = [{
    The role follows from the op and operand that reads the weight: embedding tables, norms and
    routers are `rows`, matrices `matrix`, those of gate and up `gate_up`, qkv is `heads`. So does
    the kind of the weight (embedding, attention, shared, routed, dense, head, vision), for which the
    recipe `weights` has a format (see Recipe.h). Norms, biases and routers are of f32. The kernels of `target` must
    take the format (see TargetFormats.h); how the bytes lie is chosen when the model is lowered. A
    weight whose users want different packings, such as an embedding tied to the head, is split into
    one symbol for each.
  }];
  let options = [
    Option<"target", "target", "std::string", "\"cpu\"", "whose kernels read the weights">,
    Option<"weights", "weights", "std::string", "\"keep\"",
           "a format, then overrides by kind or name: int4,head=bf16,layers.0.*=int8">,
  ];
}

//===----------------------------------------------------------------------===//
// Plans
//===----------------------------------------------------------------------===//

def PlanMemory : Pass<"plan-memory", "::moe::plan::ProgramOp"> {
  let summary = "give each buffer of a program its place in the arena";
  let description = [{
    Buffers are placed by falling size, each into the smallest gap that fits between those it is
    live together with (the "greedy by size" of https://arxiv.org/abs/2001.03288). Places are
    multiples of 256 bytes. Offsets that are there already are chosen anew.
  }];
}

#endif
