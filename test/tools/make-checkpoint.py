#!/usr/bin/env python3
"""Writes a small Llama 4 checkpoint, as Hugging Face has them, with weights that are a function of name and seed.

    make-checkpoint.py CONFIG.json -o DIR --seed 1         the weights of `moec compile CONFIG.json --random-weights 1`
    make-checkpoint.py --appendix A -o DIR                 the specification's Case A or B

Needs nothing but the Python standard library. The other options choose among the layouts, types and configuration
styles that checkpoints in the wild have; none of them changes the value of a weight before it is rounded.
"""

import argparse
import array
import json
import math
import pathlib
import shutil
import struct
import sys

MASK = (1 << 64) - 1

# ---------------------------------------------------------------------------------------------------- the weights


def fnv1a64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def generate(t, count, scale, offset=0.0):
    """float32(offset + scale * u) for the `count` uniform numbers u in [-0.5, 0.5) of tensor number `t`."""
    z0, values = t * 0xD1342543DE82EF95 & MASK, []
    for _ in range(count):
        z0 = z0 + 0x9E3779B97F4A7C15 & MASK
        z = (z0 ^ z0 >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        values.append(offset + scale * (((z ^ z >> 31) >> 40) * 2.0**-24 - 0.5))
    return array.array("f", values)


def is_norm(name):
    return name == "model.norm.weight" or name.endswith(
        ("layernorm.weight", "layernorm_pre.weight", "layernorm_post.weight"))


def input_size(name, shape):
    """How many products one output of this weight sums: linears are [out, in], fused experts [experts, in, out]."""
    return shape[1]


def random_weights(name, shape, seed):
    """The project's rule for random weights, for the canonical name of a tensor (no `language_model.`, experts fused)."""
    t = fnv1a64(name) ^ seed * 0x9E3779B97F4A7C15 & MASK
    count = math.prod(shape)
    if is_norm(name):
        return generate(t, count, scale=0.5, offset=1.0)
    if name == "model.embed_tokens.weight":
        return generate(t, count, scale=2.0)
    if name.endswith(".bias"):
        return generate(t, count, scale=0.5)
    if name.endswith(("class_embedding", "positional_embedding_vlm")):
        return generate(t, count, scale=1.0)
    return generate(t, count, scale=2.0 * math.sqrt(3.0 / input_size(name, shape)))


def appendix_weights(name, shape, number):
    """The rule of the specification's appendix A.1, for the tensor with this number (from 1)."""
    scale = 2.0 if name == "model.embed_tokens.weight" else 0.5
    return generate(number, math.prod(shape), scale, offset=1.0 if is_norm(name) else 0.0)


# ------------------------------------------------------------------------------------------------ the configuration

# What transformers takes for a field that a file leaves out.
DEFAULTS = {
    "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
    "num_local_experts": 16, "interleave_moe_layer_step": 1, "tie_word_embeddings": False,
}

APPENDIX = {
    "attention_chunk_size": 8, "attn_scale": 0.1, "attn_temperature_tuning": True, "floor_scale": 8, "head_dim": 16,
    "hidden_size": 64, "intermediate_size": 32, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 1,
    "max_position_embeddings": 131072, "model_type": "llama4_text", "num_attention_heads": 4,
    "num_experts_per_tok": 1, "num_hidden_layers": 4, "num_key_value_heads": 2, "num_local_experts": 4,
    "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 500000.0, "use_qk_norm": True, "vocab_size": 96,
    "bos_token_id": 0, "eos_token_id": [1], "pad_token_id": None,
}
APPENDIX_CASES = {
    "A": {**APPENDIX, "rope_scaling": {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0,
                                       "high_freq_factor": 1.0, "original_max_position_embeddings": 8192}},
    "B": {**APPENDIX, "interleave_moe_layer_step": 2, "use_qk_norm": False},
}


# A tower of one layer, over tiles of 28 x 28 pixels: four patches, and one row that comes out.
VISION = {
    "attention_dropout": 0.0, "hidden_act": "gelu", "hidden_size": 16, "image_size": 28, "initializer_range": 0.02,
    "intermediate_size": 64, "model_type": "llama4_vision_model", "multi_modal_projector_bias": False,
    "norm_eps": 1e-5, "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 1, "patch_size": 14,
    "pixel_shuffle_ratio": 0.5, "projector_dropout": 0.0, "projector_input_dim": 24, "projector_output_dim": 24,
    "rope_theta": 10000.0, "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
    "vision_output_dim": 24,
}


def text_config(config):
    """The text model's fields of a configuration of either architecture and style, in the v4 style."""
    text = dict(config.get("text_config", config))
    rope = text.pop("rope_parameters", None)
    if rope:
        text["rope_theta"] = rope["rope_theta"]
        scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
        text["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None
    for gone in ("architectures", "dtype", "torch_dtype", "transformers_version"):
        text.pop(gone, None)
    return text


def output_config(text, arch, style, dtype):
    text = {**text, "model_type": "llama4_text"}
    if style == "v5":
        theta, scaling = text.pop("rope_theta", 500000.0), text.pop("rope_scaling", None)
        text["rope_parameters"] = {**(scaling or {"rope_type": "default"}), "rope_theta": theta}
    dtype_field = {"dtype" if style == "v5" else "torch_dtype": dtype}
    if arch == "causal":
        return {"architectures": ["Llama4ForCausalLM"], **text, **dtype_field}
    vocab = text.get("vocab_size", DEFAULTS["vocab_size"])
    start, end, patch = (200080, 200081, 200092) if vocab > 200092 else range(vocab - 3, vocab)
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "boi_token_index": start, "eoi_token_index": end, "image_token_index": patch,
        "model_type": "llama4",
        "text_config": {**text, **dtype_field},
        "tie_word_embeddings": text.get("tie_word_embeddings", False),
        **dtype_field,
        "vision_config": VISION,
    }


# ----------------------------------------------------------------------------------------------------- the tensors


def tensors(text):
    """(canonical name, shape) of every tensor of the text model, in the order of the specification's appendix."""
    c = {**DEFAULTS, **{k: v for k, v in text.items() if v is not None}}
    hidden, vocab, head = c["hidden_size"], c["vocab_size"], c["head_dim"]
    experts, width, dense = c["num_local_experts"], c["intermediate_size"], c["intermediate_size_mlp"]
    q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    step, layers = c["interleave_moe_layer_step"], c["num_hidden_layers"]
    moe_layers = c["moe_layers"] if "moe_layers" in c else range(step - 1, layers, step)

    yield "model.embed_tokens.weight", (vocab, hidden)
    for i in range(layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "self_attn.q_proj.weight", (q, hidden)
        yield layer + "self_attn.k_proj.weight", (kv, hidden)
        yield layer + "self_attn.v_proj.weight", (kv, hidden)
        yield layer + "self_attn.o_proj.weight", (hidden, q)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        mlp, inner = layer + "feed_forward.", dense
        if i in moe_layers:
            yield mlp + "router.weight", (experts, hidden)
            yield mlp + "experts.gate_up_proj", (experts, hidden, 2 * width)
            yield mlp + "experts.down_proj", (experts, width, hidden)
            mlp, inner = mlp + "shared_expert.", width
        yield mlp + "gate_proj.weight", (inner, hidden)
        yield mlp + "up_proj.weight", (inner, hidden)
        yield mlp + "down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, hidden)


def vision_tensors(text):
    """(name, shape) of every tensor of the tower that VISION describes, and of its projector."""
    v, hidden = VISION, text.get("hidden_size", DEFAULTS["hidden_size"])
    width, inner, patch = v["hidden_size"], v["intermediate_size"], v["patch_size"]
    adapter = v["projector_output_dim"]

    def linear(name, outputs, inputs):
        yield name + ".weight", (outputs, inputs)
        yield name + ".bias", (outputs,)

    def norm(name):
        yield name + ".weight", (width,)
        yield name + ".bias", (width,)

    tower = "vision_model."
    yield tower + "class_embedding", (width,)
    yield tower + "positional_embedding_vlm", ((v["image_size"] // patch) ** 2 + 1, width)
    yield tower + "patch_embedding.linear.weight", (width, 3 * patch * patch)
    yield from norm(tower + "layernorm_pre")
    for i in range(v["num_hidden_layers"]):
        layer = f"{tower}model.layers.{i}."
        yield from norm(layer + "input_layernorm")
        for which in "qkvo":
            yield from linear(f"{layer}self_attn.{which}_proj", width, width)
        yield from norm(layer + "post_attention_layernorm")
        yield from linear(layer + "mlp.fc1", inner, width)
        yield from linear(layer + "mlp.fc2", width, inner)
    yield from norm(tower + "layernorm_post")
    yield tower + "vision_adapter.mlp.fc1.weight", (adapter, inner)
    yield tower + "vision_adapter.mlp.fc2.weight", (adapter, adapter)
    yield "multi_modal_projector.linear_1.weight", (hidden, adapter)


def transposed(values, first, rows, columns, row_length):
    """The block of `rows` by `columns` at element `first` of a matrix with rows of `row_length`, as columns by rows."""
    result = array.array("f")
    for column in range(first, first + columns):
        result += values[column : column + (rows - 1) * row_length + 1 : row_length]
    return result


def store_experts(name, shape, values, layout):
    """(stored name, shape, values) of one fused expert tensor in another layout: linears are [out, in] there."""
    if layout == "fused":
        yield name, shape, values
        return
    prefix, kind = name.rsplit(".", 1)
    experts, rows, row_length = shape
    halves = {"gate_up_proj": ["gate", "up"], "down_proj": ["down"]}[kind]
    columns = row_length // len(halves)
    for part, half in enumerate(halves):
        each = [transposed(values, e * rows * row_length + part * columns, rows, columns, row_length)
                for e in range(experts)]
        if layout == "stacked":
            yield f"{prefix}.{half}_proj.weight", (experts, columns, rows), sum(each, array.array("f"))
        for e, matrix in enumerate(each if layout != "stacked" else []):
            stored = {"per-expert": f"{e}.{half}_proj.weight", "linearized": f"{half}_projs.{e}.weight"}[layout]
            yield f"{prefix}.{stored}", (columns, rows), matrix


# ------------------------------------------------------------------------------------------------------- the files

DTYPES = {"f32": ("F32", "float32"), "f16": ("F16", "float16"), "bf16": ("BF16", "bfloat16")}


def little_endian(values):
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def encode(values, dtype):
    """The bytes of float32 values in a checkpoint's type, rounded to nearest even."""
    if dtype == "f32":
        return little_endian(array.array("f", values))
    if dtype == "f16":
        return struct.pack(f"<{len(values)}e", *values)
    bits = array.array("I", values.tobytes())
    assert bits.itemsize == 4
    return little_endian(array.array("H", [(b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits]))


def write_safetensors(path, stored):
    """stored: [(name, dtype label, shape, bytes)]"""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, label, shape, data in stored:
        header[name] = {"dtype": label, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, data in stored:
            file.write(data)


def write_shards(folder, stored, shards):
    if shards == 1:
        write_safetensors(folder / "model.safetensors", stored)
        return
    total = sum(len(s[3]) for s in stored)
    groups, done = [[] for _ in range(shards)], 0
    for entry in stored:  # in order, each shard about as large as the others; a tensor never spans two
        groups[min(shards - 1, done * shards // total)].append(entry)
        done += len(entry[3])
    index = {}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        write_safetensors(folder / file, group)
        index.update({entry[0]: file for entry in group})
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}, indent=2)
    (folder / "model.safetensors.index.json").write_text(text + "\n")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def make_checkpoint(folder, text, weights, dtype="bf16", shards=1, experts="fused", arch="causal", style="v4",
                    tokenizer=None):
    """weights(canonical name, shape, number from 1) gives a tensor's float32 values."""
    folder.mkdir(parents=True, exist_ok=True)
    label, dtype_name = DTYPES[dtype]
    prefix = "language_model." if arch == "conditional" else ""
    stored = []
    for number, (name, shape) in enumerate(tensors(text), 1):
        values = weights(name, shape, number)
        layout = experts if ".experts." in name else "fused"
        for stored_name, stored_shape, part in store_experts(name, shape, values, layout):
            stored.append((prefix + stored_name, label, stored_shape, encode(part, dtype)))
    if arch == "conditional":
        for number, (name, shape) in enumerate(vision_tensors(text), len(stored) + 1):
            stored.append((name, label, shape, encode(weights(name, shape, number), dtype)))
    write_shards(folder, stored, shards)
    write_json(folder / "config.json", output_config(text, arch, style, dtype_name))
    generation = {k: text[f"{k}_token_id"] for k in ("bos", "eos", "pad") if text.get(f"{k}_token_id") is not None}
    write_json(folder / "generation_config.json", {f"{k}_token_id": v for k, v in generation.items()})
    if tokenizer:
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            if (tokenizer / file).exists():
                shutil.copyfile(tokenizer / file, folder / file)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("config", nargs="?", type=pathlib.Path, help="a config.json of either architecture and style")
    arguments.add_argument("-o", "--output", type=pathlib.Path, required=True, metavar="DIR")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--appendix", choices=APPENDIX_CASES, help="the specification's case, instead of CONFIG")
    arguments.add_argument("--dtype", choices=DTYPES, default="bf16")
    arguments.add_argument("--shards", type=int, default=1)
    arguments.add_argument("--experts", choices=["fused", "per-expert", "linearized", "stacked"], default="fused")
    arguments.add_argument("--arch", choices=["causal", "conditional"], default="causal")
    arguments.add_argument("--config-style", choices=["v4", "v5"], default="v4", help="of transformers 4 or 5")
    arguments.add_argument("--tied", action="store_true", help="the head is the embedding: no lm_head tensor")
    arguments.add_argument("--tokenizer", type=pathlib.Path, metavar="DIR", help="copy the tokenizer files of DIR")
    options = arguments.parse_args()
    if (options.config is None) == (options.appendix is None):
        arguments.error("give either CONFIG or --appendix")
    if options.shards < 1:
        arguments.error(f"--shards {options.shards}: at least 1 is needed")

    if options.appendix:
        text, weights = APPENDIX_CASES[options.appendix], appendix_weights
    else:
        text = text_config(json.loads(options.config.read_text()))
        weights = lambda name, shape, number: random_weights(name, shape, options.seed)
    if options.tied:
        text = {**text, "tie_word_embeddings": True}
    make_checkpoint(options.output, text, weights, options.dtype, options.shards, options.experts, options.arch,
                    options.config_style, options.tokenizer)


if __name__ == "__main__":
    main()
