"""The tensors and the keys of a Llama 4 GGUF file, from a Hugging Face configuration.

Standard library only. Names of GGUF and what llama.cpp can express are those of its architecture `llama4`.
"""

import json
import math
import pathlib

# What transformers takes for a field that a file leaves out.
DEFAULTS = {
    "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
    "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_scaling": None, "attention_chunk_size": 8192,
    "floor_scale": 8192, "attn_scale": 0.1, "attn_temperature_tuning": True, "use_qk_norm": True,
    "no_rope_layer_interval": 4, "max_position_embeddings": 131072,
}

# llama.cpp fixes the length of an attention chunk, and the tokens after which the temperature of layers without
# RoPE takes its next step.
FIXED_CHUNK = 8192


class Unsupported(Exception):
    """A model that GGUF's architecture `llama4` cannot say."""


def read_config(path):
    """The text model's fields of DIR/config.json, with defaults for those that are left out."""
    config = json.loads((pathlib.Path(path) / "config.json").read_text())
    text = {k: v for k, v in config.get("text_config", config).items() if v is not None}
    return check({**DEFAULTS, **text})


def moe_layers(c):
    step = c["interleave_moe_layer_step"]
    return list(c.get("moe_layers", range(step - 1, c["num_hidden_layers"], step)))


def rope_layers(c):
    """For each layer whether it has RoPE."""
    layers, interval = c["num_hidden_layers"], c["no_rope_layer_interval"]
    return [bool(x) for x in c.get("no_rope_layers") or [(i + 1) % interval for i in range(layers)]]


def check(c):
    step, layers = c["interleave_moe_layer_step"], c["num_hidden_layers"]
    facts = [
        (moe_layers(c) == list(range(step - 1, layers, step)), f"moe_layers other than each {step}th"),
        (rope_layers(c) == [bool((i + 1) % 4) for i in range(layers)], "layers without RoPE other than each fourth"),
        (c["rope_scaling"] is None, "rope_scaling"),
        (c["use_qk_norm"] == (c["num_local_experts"] != 128), "use_qk_norm with 128 experts, or none without"),
        (c["attn_temperature_tuning"] and c["attn_scale"] == 0.1, "an attn_scale other than 0.1"),
    ]
    for holds, what in facts:
        if not holds:
            raise Unsupported(f"{what}: not in the GGUF files that this writes")
    return c


def common_window(c):
    """The most tokens of a sequence for which llama.cpp computes the same as the model says."""
    # The temperature's first step is at position floor_scale - 1, a chunk's second at attention_chunk_size.
    lengths = [c["max_position_embeddings"]]
    if c["attention_chunk_size"] != FIXED_CHUNK:
        lengths.append(c["attention_chunk_size"])
    if c["floor_scale"] != FIXED_CHUNK:
        lengths.append(c["floor_scale"] - 1)
    return min(lengths)


def keys(c):
    """GGUF keys after `llama4.`, with their values."""
    return {
        "context_length": c["max_position_embeddings"],
        "embedding_length": c["hidden_size"],
        "block_count": c["num_hidden_layers"],
        "feed_forward_length": c["intermediate_size_mlp"],
        "expert_feed_forward_length": c["intermediate_size"],
        "expert_count": c["num_local_experts"],
        "expert_used_count": c["num_experts_per_tok"],
        "interleave_moe_layer_step": c["interleave_moe_layer_step"],
        "attention.head_count": c["num_attention_heads"],
        "attention.head_count_kv": c["num_key_value_heads"],
        "attention.key_length": c["head_dim"],
        "attention.value_length": c["head_dim"],
        "attention.layer_norm_rms_epsilon": float(c["rms_norm_eps"]),
        "rope.dimension_count": c["head_dim"],
        "rope.freq_base": float(c["rope_theta"]),
        "vocab_size": c["vocab_size"],
        # No attention.sliding_window: llama.cpp then has chunks, layers without RoPE, temperature and QK norm.
    }


class Tensor:
    """A tensor of the file: `shape` with rows last, `source` in the checkpoint, and how it is made of that."""

    def __init__(self, name, shape, source, part="whole"):
        self.name, self.shape, self.source = name, shape, source
        self.part = part  # "whole"; "gate" or "up": half of the columns, transposed; "down": transposed

    @property
    def float32(self):
        """llama.cpp wants norms and routers in float32, whatever the file's type."""
        return len(self.shape) == 1 or self.name.endswith("ffn_gate_inp.weight")


def tensors(c):
    """The file's tensors in order. Checkpoints have fused experts: gate_up_proj [experts, hidden, 2 width]."""
    hidden, vocab, head = c["hidden_size"], c["vocab_size"], c["head_dim"]
    experts, width, dense = c["num_local_experts"], c["intermediate_size"], c["intermediate_size_mlp"]
    q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    result = [Tensor("token_embd.weight", (vocab, hidden), "model.embed_tokens.weight")]
    for i in range(c["num_hidden_layers"]):
        to, at = f"blk.{i}.", f"model.layers.{i}."
        result += [
            Tensor(to + "attn_norm.weight", (hidden,), at + "input_layernorm.weight"),
            Tensor(to + "attn_q.weight", (q, hidden), at + "self_attn.q_proj.weight"),
            Tensor(to + "attn_k.weight", (kv, hidden), at + "self_attn.k_proj.weight"),
            Tensor(to + "attn_v.weight", (kv, hidden), at + "self_attn.v_proj.weight"),
            Tensor(to + "attn_output.weight", (hidden, q), at + "self_attn.o_proj.weight"),
            Tensor(to + "ffn_norm.weight", (hidden,), at + "post_attention_layernorm.weight"),
        ]
        at += "feed_forward."
        if i in moe_layers(c):
            fused, shared = at + "experts.gate_up_proj", at + "shared_expert."
            result += [
                Tensor(to + "ffn_gate_inp.weight", (experts, hidden), at + "router.weight"),
                Tensor(to + "ffn_gate_exps.weight", (experts, width, hidden), fused, "gate"),
                Tensor(to + "ffn_up_exps.weight", (experts, width, hidden), fused, "up"),
                Tensor(to + "ffn_down_exps.weight", (experts, hidden, width), at + "experts.down_proj", "down"),
                Tensor(to + "ffn_gate_shexp.weight", (width, hidden), shared + "gate_proj.weight"),
                Tensor(to + "ffn_up_shexp.weight", (width, hidden), shared + "up_proj.weight"),
                Tensor(to + "ffn_down_shexp.weight", (hidden, width), shared + "down_proj.weight"),
            ]
        else:
            result += [
                Tensor(to + "ffn_gate.weight", (dense, hidden), at + "gate_proj.weight"),
                Tensor(to + "ffn_up.weight", (dense, hidden), at + "up_proj.weight"),
                Tensor(to + "ffn_down.weight", (hidden, dense), at + "down_proj.weight"),
            ]
    result.append(Tensor("output_norm.weight", (hidden,), "model.norm.weight"))
    if not c["tie_word_embeddings"]:
        result.append(Tensor("output.weight", (vocab, hidden), "lm_head.weight"))
    return result


def source_shape(c, tensor):
    """The shape that the checkpoint's tensor has."""
    if tensor.part == "whole":
        return tensor.shape
    experts, rows, columns = tensor.shape
    return (experts, columns, rows if tensor.part == "down" else 2 * rows)


def prefill_operations(c, tokens):
    """Operations per token of a prompt from an empty context, a multiplication and an addition each counted.

    The router, the last layer's experts and the head count for the last token alone, since nobody needs more.
    """
    hidden, head = c["hidden_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    used = c["num_experts_per_tok"] + 1  # and the shared one
    attention = hidden * (2 * q + 2 * kv) + 2 * q * (tokens + 1) / 2  # projections, and half a square of scores
    total = 0.0
    for i in range(c["num_hidden_layers"]):
        last = i == c["num_hidden_layers"] - 1
        width = used * c["intermediate_size"] if i in moe_layers(c) else c["intermediate_size_mlp"]
        total += attention + 3 * hidden * width * (1 / tokens if last else 1)
    return 2 * (total + hidden * c["vocab_size"] / tokens)


def active_bytes(c, sizes):
    """Bytes of weights that one decoded token reads, from the bytes of each tensor of a file.

    A token's share of routed experts, and one row of the embedding unless that is the head too.
    """
    share = c["num_experts_per_tok"] / c["num_local_experts"]
    total = 0.0
    for name, size in sizes.items():
        if name == "token_embd.weight" and "output.weight" in sizes:
            total += size / c["vocab_size"]
        else:
            total += size * (share if "_exps." in name else 1)
    return round(total)


def parameters(c):
    return sum(math.prod(t.shape) for t in tensors(c))
