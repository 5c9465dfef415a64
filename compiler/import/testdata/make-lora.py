#!/usr/bin/env python3
"""Makes lora/ beside itself: a tiny Llama 4, adapters for it as PEFT saves them, and what PEFT merges.

    make-lora.py        needs torch, transformers and peft

base.safetensors has the model; <adapter>/ the adapter's files and merged.safetensors, the tensors that it changes.
"""

import pathlib
import shutil

import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import Llama4ForCausalLM, Llama4TextConfig

HERE = pathlib.Path(__file__).resolve().parent / "lora"
CONFIG = dict(vocab_size=24, hidden_size=16, intermediate_size=10, intermediate_size_mlp=12, num_hidden_layers=2,
              num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_local_experts=3, num_experts_per_tok=1,
              interleave_moe_layer_step=2, tie_word_embeddings=False, pad_token_id=None)
ADAPTERS = {
    "linears": dict(r=4, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                                                       "down_proj", "lm_head", "embed_tokens"],
                    rank_pattern={"layers.1.self_attn.q_proj": 2, "lm_head": 3},
                    alpha_pattern={"k_proj": 9, "layers.0.feed_forward.up_proj": 1}),
    "rslora": dict(r=3, lora_alpha=5, target_modules=["o_proj"], use_rslora=True),
    "experts": dict(r=2, lora_alpha=3, target_modules=["v_proj"],
                    target_parameters=["feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"]),
}


def build():
    torch.manual_seed(0)
    model = Llama4ForCausalLM(Llama4TextConfig(**CONFIG)).float()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def main():
    torch.set_num_threads(1)
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    before = {name: tensor.clone() for name, tensor in build().state_dict().items()}
    save_file(before, HERE / "base.safetensors")
    for name, options in ADAPTERS.items():
        model = peft.get_peft_model(build(), peft.LoraConfig(**options))
        generator = torch.Generator().manual_seed(2)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(HERE / name, save_embedding_layers=False)
        (HERE / name / "README.md").unlink(missing_ok=True)
        merged = model.merge_and_unload().state_dict()
        assert merged.keys() == before.keys()
        changed = {key: tensor.contiguous() for key, tensor in merged.items() if not torch.equal(tensor, before[key])}
        save_file(changed, HERE / name / "merged.safetensors")
        print(name, len(changed))
    for file in HERE.rglob("*.*"):
        if file.is_file():
            file.chmod(0o644)
    print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)


if __name__ == "__main__":
    main()
