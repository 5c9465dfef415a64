#!/usr/bin/env python3
"""Makes the golden files of the tiny models: <case>/config.json and <case>/golden.json, from transformers in float32.

    make-goldens.py [CASE ...]        needs torch and transformers; the versions used are in each golden.json

A case's weights are those of `moec compile CONFIG --random-weights SEED`. golden.json has, for each prompt, the full
logits at a few positions, the largest logit's index at every position, and 16 tokens of greedy continuation. Prompts are
drawn until no choice in them (of an expert, or of a greedy token) is a near tie.
"""

import argparse
import importlib.util
import json
import pathlib
import random
import tempfile

import torch
import transformers
from transformers import Llama4ForCausalLM
from transformers.models.llama4.modeling_llama4 import Llama4Router

HERE = pathlib.Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("checkpoint", HERE.parent / "tools" / "make-checkpoint.py")
checkpoint = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checkpoint)

GREEDY_TOKENS = 16
GREEDY_MARGIN = 5e-3  # the two best logits of each greedy step differ by more
ROUTER_MARGIN = 5e-4  # and so do the router's last chosen and first rejected logit of each token

BASE = {
    "attention_bias": False, "attention_chunk_size": 8, "attention_dropout": 0.0, "attn_scale": 0.1,
    "attn_temperature_tuning": True, "bos_token_id": 0, "eos_token_id": [1], "floor_scale": 8, "head_dim": 16,
    "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "interleave_moe_layer_step": 1,
    "intermediate_size": 32, "intermediate_size_mlp": 64, "max_position_embeddings": 131072,
    "model_type": "llama4_text", "no_rope_layers": [], "num_attention_heads": 4, "num_experts_per_tok": 1,
    "num_hidden_layers": 4, "num_key_value_heads": 2, "num_local_experts": 4, "pad_token_id": None,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "use_cache": True, "use_qk_norm": True, "vocab_size": 128,
}


def llama3(factor, high, original=8192):
    return {"factor": factor, "high_freq_factor": high, "low_freq_factor": 1.0,
            "original_max_position_embeddings": original, "rope_type": "llama3"}


# What each case adds to BASE: every rule of the model bites in one of them.
CASES = {
    "scout": {"rope_scaling": llama3(16.0, 1.0)},
    "scout-short-rope": {"rope_scaling": llama3(16.0, 1.0, 16), "rope_theta": 10000.0, "num_local_experts": 16},
    "launch-week-rope": {"rope_scaling": llama3(8.0, 4.0, 64), "head_dim": 32, "rope_theta": 10000.0},
    "maverick": {"interleave_moe_layer_step": 2, "use_qk_norm": False, "intermediate_size": 48,
                 "intermediate_size_mlp": 96, "num_local_experts": 8},
    "gqa-5-to-1": {"hidden_size": 160, "num_attention_heads": 10, "intermediate_size": 64,
                   "attention_chunk_size": 16, "floor_scale": 16},
    "top-2": {"num_experts_per_tok": 2, "num_local_experts": 6},
    "tied": {"tie_word_embeddings": True},
    "no-temperature": {"attn_temperature_tuning": False},
    "strong-temperature": {"floor_scale": 3, "attn_scale": 0.5, "no_rope_layer_interval": 2},
    "no-chunks": {"attention_chunk_size": None},
    "dense": {"moe_layers": [], "attention_chunk_size": None, "no_rope_layers": [1, 1, 1, 1], "use_qk_norm": False,
              "attn_temperature_tuning": False, "intermediate_size_mlp": 160},
    "head-64": {"hidden_size": 128, "head_dim": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
                "attention_chunk_size": 12},
    "head-128": {"hidden_size": 128, "head_dim": 128, "num_attention_heads": 3, "num_key_value_heads": 1,
                 "rope_scaling": llama3(16.0, 1.0), "attention_chunk_size": 16, "floor_scale": 16},
    "odd-sizes": {"hidden_size": 96, "intermediate_size": 40, "intermediate_size_mlp": 72, "vocab_size": 259,
                  "num_attention_heads": 3, "num_key_value_heads": 3, "num_local_experts": 5,
                  "num_hidden_layers": 5, "moe_layers": [0, 2, 3], "no_rope_layers": [1, 0, 1, 1, 0],
                  "attention_chunk_size": 11, "floor_scale": 7, "rms_norm_eps": 1e-3},
}


class Reference:
    """transformers' model in float32 with a case's weights. No cache: each call runs all tokens."""

    def __init__(self, config, seed):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            weights = lambda name, shape, number: checkpoint.random_weights(name, shape, seed)
            checkpoint.make_checkpoint(folder, config, weights, dtype="f32")
            self.config_file = (folder / "config.json").read_bytes()
            self.model, report = Llama4ForCausalLM.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True)
        assert not (report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"]), report
        self.model.eval()
        self.chunk = config["attention_chunk_size"]
        self.router_margin = float("inf")
        for module in self.model.modules():
            if isinstance(module, Llama4Router):
                module.register_forward_hook(self.note_router_margin)

    def note_router_margin(self, module, inputs, output):
        best = output[1].topk(module.top_k + 1).values
        self.router_margin = min(self.router_margin, (best[:, -2] - best[:, -1]).min().item())

    def masks(self, length):
        """What each layer kind sees, from its definition."""
        q, k = torch.arange(length)[:, None], torch.arange(length)[None]
        full = k <= q
        local = full & (k // self.chunk == q // self.chunk) if self.chunk else full
        as_bias = lambda seen: torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
        return {"full_attention": as_bias(full), "chunked_attention": as_bias(local)}

    @torch.no_grad()
    def logits(self, ids, attention="sdpa", own_masks=True):
        self.model.set_attn_implementation(attention)
        # transformers cannot make its own masks where attention_chunk_size is null.
        mask = None if own_masks and self.chunk else self.masks(len(ids))
        return self.model(torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0]

    def check(self, ids):
        """transformers' two attention paths agree, and its masks are those of the definition."""
        reference = self.logits(ids)
        for other in (self.logits(ids, "eager"), self.logits(ids, "eager", own_masks=False)):
            error = (reference - other).abs().max().item()
            assert error < 1e-5 * max(1, reference.abs().max().item()), error


def golden_prompt(reference, ids, positions):
    """The golden entry of one prompt, or None if some choice in it is a near tie."""
    reference.router_margin = float("inf")
    logits = reference.logits(ids)
    greedy, margin = [], float("inf")
    for _ in range(GREEDY_TOKENS):
        best = reference.logits(ids + greedy)[-1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        greedy.append(best.indices[0].item())
    if margin < GREEDY_MARGIN or reference.router_margin < ROUTER_MARGIN:
        return None
    reference.check(ids + greedy)
    return {
        "ids": ids,
        "positions": positions,
        "logits": [[float(f"{x:.7g}") for x in logits[p].tolist()] for p in positions],
        "argmax": logits.argmax(-1).tolist(),
        "greedy": greedy,
        "greedy_margin": float(f"{margin:.3g}"),
        "router_margin": float(f"{reference.router_margin:.3g}") if reference.router_margin < 1e9 else None,
    }


def make_case(name, seed):
    config = {**BASE, **CASES[name]}
    reference = Reference(config, seed)
    chunk = config["attention_chunk_size"] or 8
    prompts = []
    for length in (chunk - 1, chunk, chunk + 1, 3 * chunk + 3):
        positions = {0, chunk - 1, chunk, 2 * chunk, 3 * chunk, length - 1}
        positions = sorted(p for p in positions if p < length)
        for draw in range(1000):
            ids = random.Random(f"{name} {length} {draw}").choices(range(config["vocab_size"]), k=length)
            if entry := golden_prompt(reference, ids, positions):
                prompts.append(entry)
                break
        else:
            raise SystemExit(f"{name}: every prompt of {length} tokens has a near tie")
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(reference.config_file)
    head = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "dtype": "float32",
            "seed": seed, "config_case": name}
    compact = lambda value: json.dumps(value, separators=(",", ":"))
    lines = [f"{compact(k)}:{compact(v)}" for k, v in head.items()]
    rows = ",\n".join("{" + ",\n".join(f"{compact(k)}:{compact(v)}" for k, v in p.items()) + "}" for p in prompts)
    (folder / "golden.json").write_text("{" + ",\n".join(lines) + ',\n"prompts":[\n' + rows + "\n]}\n")
    print(f"{name}: {reference.model.num_parameters()} parameters, margins",
          ", ".join(f"{p['greedy_margin']}/{p['router_margin']}" for p in prompts), flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("case", nargs="*", choices=[[], *CASES])
    torch.set_num_threads(1)
    for name in arguments.parse_args().case or CASES:
        make_case(name, seed=1 + list(CASES).index(name))


if __name__ == "__main__":
    main()
