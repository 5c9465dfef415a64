#!/usr/bin/env python3
"""Makes quantized/<case>/: tiny quantized checkpoints, and what transformers computes with their decoded weights.

    make-quantized-goldens.py        needs torch, transformers and compressed-tensors

The tensors are packed by compressed-tensors in the layouts of published checkpoints: `fp8-experts` as the official
Maverick FP8 (routed experts alone, each by itself, a scale for each row), `w4a16` with all linears of the layers but the
routers in int4 (groups of 16 columns). golden.json is as that of the other tiny models (README.md), in float32.
"""

import argparse
import importlib.util
import json
import pathlib
import random
import re

import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file
from transformers import Llama4ForCausalLM, Llama4TextConfig
from transformers.models.llama4.modeling_llama4 import Llama4Router

HERE = pathlib.Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("goldens", HERE / "make-goldens.py")
goldens = importlib.util.module_from_spec(spec)
spec.loader.exec_module(goldens)

SIZES = {"hidden_size": 32, "intermediate_size": 32, "intermediate_size_mlp": 48, "num_hidden_layers": 2, "head_dim": 16,
         "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2, "vocab_size": 64,
         "no_rope_layers": [1, 0]}
ROUTED = r".*feed_forward\.experts\.\d+\.(gate|up|down)_proj$"
LINEARS = r".*(self_attn\.[qkvo]_proj|feed_forward\..*(gate|up|down)_proj)$"
CASES = {
    "fp8-experts": {"config": {"interleave_moe_layer_step": 2, "use_qk_norm": False}, "modules": ROUTED,
                    "format": "float-quantized", "args": {"num_bits": 8, "type": "float", "strategy": "channel"}},
    "w4a16": {"config": {}, "modules": LINEARS, "format": "pack-quantized",
              "args": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}},
}


def unfused(state):
    """The linears of each expert instead of the fused tensors."""
    for name, tensor in state.items():
        if name.endswith("experts.gate_up_proj"):
            at = name.removesuffix("gate_up_proj")
            for e, both in enumerate(tensor):
                gate, up = both.T.chunk(2)
                yield f"{at}{e}.gate_proj.weight", gate
                yield f"{at}{e}.up_proj.weight", up
        elif name.endswith("experts.down_proj"):
            for e, down in enumerate(tensor):
                yield f"{name.removesuffix('down_proj')}{e}.down_proj.weight", down.T
        else:
            yield name, tensor


def fused(state, like):
    def experts(at, which):
        return torch.stack([state[f"{at}{e}.{which}_proj.weight"].T for e in range(SIZES["num_local_experts"])])

    result = {}
    for name in like:
        if name.endswith("experts.gate_up_proj"):
            at = name.removesuffix("gate_up_proj")
            result[name] = torch.cat([experts(at, "gate"), experts(at, "up")], 2)
        elif name.endswith("experts.down_proj"):
            result[name] = experts(name.removesuffix("down_proj"), "down")
        else:
            result[name] = state[name]
    return result


class Reference(goldens.Reference):
    """A model with the elements that a quantized checkpoint stands for."""

    def __init__(self, case, folder, seed):
        config = {**goldens.BASE, **SIZES, **case["config"]}
        self.model = Llama4ForCausalLM(Llama4TextConfig(**config)).float().eval()
        plain = {}
        for name, tensor in self.model.state_dict().items():
            values = goldens.checkpoint.random_weights(name, list(tensor.shape), seed)
            plain[name] = torch.tensor(values).reshape(tensor.shape).bfloat16()
        args = QuantizationArgs(symmetric=True, **case["args"])
        scheme = QuantizationScheme(targets=["Linear"], weights=args, format=case["format"])
        compressor = BaseCompressor.get_value_from_registry(case["format"])
        stored, decoded = {}, {}
        for name, weight in unfused(plain):
            decoded[name] = weight.float()
            module = name.removesuffix(".weight")
            if not re.match(case["modules"], module):
                stored[name] = weight
                continue
            groups = weight.reshape(weight.shape[0], -1, args.group_size or weight.shape[1])
            scale, _ = calculate_qparams(groups.amin(2), groups.amax(2), args)
            state = compressor.compress({"weight": weight, "weight_scale": scale.bfloat16()}, scheme)
            stored |= {f"{module}.{key}": tensor for key, tensor in state.items()}
            state["weight_scale"] = state["weight_scale"].float()
            decoded[name] = compressor.decompress(state, scheme)["weight"].float()
        self.model.load_state_dict(fused(decoded, plain))
        self.chunk = config["attention_chunk_size"]
        for module in self.model.modules():
            if isinstance(module, Llama4Router):
                module.register_forward_hook(self.note_router_margin)

        group = {"targets": ["Linear"], "weights": json.loads(args.model_dump_json()), "output_activations": None,
                 "input_activations": None}
        if case["format"] == "float-quantized":
            group["input_activations"] = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True,
                                          "symmetric": True}
        quantization = {"quant_method": "compressed-tensors", "format": case["format"], "config_groups": {"group_0": group},
                        "ignore": ["lm_head", "re:.*router"], "kv_cache_scheme": None,
                        "quantization_status": "compressed"}
        written = goldens.checkpoint.output_config(config, "causal", "v4", "bfloat16")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**written, "quantization_config": quantization}, indent=1) + "\n")
        save_file({k: v.contiguous() for k, v in stored.items()}, folder / "model.safetensors", {"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.parse_args()
    torch.set_num_threads(1)
    for seed, (name, case) in enumerate(CASES.items(), 101):
        folder = HERE / "quantized" / name
        reference = Reference(case, folder, seed)
        prompts = []
        for length in (7, 9, 19):
            for draw in range(3000):
                ids = random.Random(f"{name} {length} {draw}").choices(range(SIZES["vocab_size"]), k=length)
                if entry := goldens.golden_prompt(reference, ids, [0, length - 1]):
                    prompts.append(entry)
                    break
            else:
                raise SystemExit(f"{name}: every prompt of {length} tokens has a near tie")
        head = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "dtype": "float32",
                "seed": seed, "config_case": name}
        compact = lambda value: json.dumps(value, separators=(",", ":"))
        lines = [f"{compact(k)}:{compact(v)}" for k, v in {**head, "prompts": prompts}.items()]
        (folder / "golden.json").write_text("{" + ",\n".join(lines) + "}\n")
        print(name, [(p["greedy_margin"], p["router_margin"]) for p in prompts])


if __name__ == "__main__":
    main()
