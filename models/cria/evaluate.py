"""Prints how good cria is, as transformers runs it: held-out perplexity, how its experts share the work, samples."""

import argparse
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import Llama4ForCausalLM
from transformers.models.llama4.modeling_llama4 import Llama4Router

from train import BEGIN, CONFIG, heldout_windows

PROMPTS = ["In the beginning", "And the king said unto",
           "<|header_start|>user<|header_end|>\n\nThe LORD is my shepherd;<|eot|><|header_start|>assistant<|header_end|>\n\n"]


@torch.no_grad()
def perplexity(model, windows):
    total = 0.0
    for ids in windows.split(1):
        logits = model(ids, use_cache=False).logits[0, :-1].double()
        total += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
    return math.exp(total / windows[:, 1:].numel())


@torch.no_grad()
def continuation(model, tokenizer, prompt, count):
    ids = [BEGIN] + tokenizer.encode(prompt, add_special_tokens=False).ids
    for _ in range(count):
        ids.append(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
        if ids[-1] in CONFIG["eos_token_id"]:
            break
    return tokenizer.decode(ids[1:], skip_special_tokens=False)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    arguments.add_argument("--work", type=pathlib.Path, required=True, help="holds chapters.json, see prepare.py")
    options = arguments.parse_args()
    windows = heldout_windows(json.loads((options.work / "chapters.json").read_text())["heldout"])
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))

    loads = {}
    for dtype in (torch.bfloat16, torch.float32):
        model = Llama4ForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
        hooks = []
        for name, module in model.named_modules() if dtype == torch.float32 else []:
            if isinstance(module, Llama4Router):
                count = lambda m, i, o, layer=name.split(".")[2]: loads.setdefault(layer, []).append(
                    torch.bincount(o[1].argmax(-1), minlength=m.num_experts))
                hooks.append(module.register_forward_hook(count))
        print(f"{dtype}: perplexity {perplexity(model, windows):.3f} on {len(windows)} windows of {windows.shape[1]}")
        for hook in hooks:
            hook.remove()
    print("\n| layer | " + " | ".join(f"expert {e}" for e in range(CONFIG["num_local_experts"])) + " |")
    print("|---" * (1 + CONFIG["num_local_experts"]) + "|")
    for layer, counts in loads.items():
        share = sum(counts) / sum(counts).sum()
        print(f"| {layer} | " + " | ".join(f"{100 * s:.1f} %" for s in share.tolist()) + " |")
    for prompt in PROMPTS:
        print("\n" + continuation(model, tokenizer, prompt, 120))


if __name__ == "__main__":
    main()
