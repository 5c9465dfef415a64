"""Trains cria, a small Llama 4, on a CPU for a given number of minutes and writes it as a Hugging Face checkpoint.

The model is transformers' own Llama4ForCausalLM; only the MoE forward is replaced, by one that runs each token's chosen
expert alone. The learning rate follows the clock, so a busy machine trains less but always ends a whole schedule.
"""

import argparse
import json
import math
import pathlib
import random
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AttentionInterface, Llama4ForCausalLM, Llama4TextConfig
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

from prepare import FIRST_SPECIAL, SPECIALS, VOCAB_ROWS

SPECIAL = {s: FIRST_SPECIAL + i for i, s in enumerate(SPECIALS)}
BEGIN, END, EOT = (SPECIAL[f"<|{n}|>"] for n in ("begin_of_text", "end_of_text", "eot"))

LAYERS = 8
# Written as it stands to config.json: the fields and their order are those of the published Llama 4 files.
CONFIG = {
    "architectures": ["Llama4ForCausalLM"],
    "attention_bias": False,
    "attention_chunk_size": 128,
    "attention_dropout": 0.0,
    "attn_scale": 0.1,
    "attn_temperature_tuning": True,
    "bos_token_id": BEGIN,
    "eos_token_id": [END, SPECIAL["<|eom|>"], EOT],
    "floor_scale": 128,
    "for_llm_compressor": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "interleave_moe_layer_step": 1,
    "intermediate_size": 128,
    "intermediate_size_mlp": 256,
    "layer_types": ["full_attention" if i % 4 == 3 else "chunked_attention" for i in range(LAYERS)],
    "max_position_embeddings": 1024,
    "model_type": "llama4_text",
    "moe_layers": list(range(LAYERS)),
    "no_rope_layer_interval": 4,
    "no_rope_layers": [int(i % 4 != 3) for i in range(LAYERS)],
    "num_attention_heads": 4,
    "num_experts_per_tok": 1,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "pad_token_id": SPECIAL["<|finetune_right_pad|>"],
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.01,
    "router_jitter_noise": 0.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_qk_norm": True,
    "vocab_size": VOCAB_ROWS,
}
GENERATION = {
    "bos_token_id": BEGIN,
    "do_sample": True,
    "eos_token_id": CONFIG["eos_token_id"],
    "pad_token_id": CONFIG["pad_token_id"],
    "temperature": 0.6,
    "top_p": 0.9,
}


def make_config(attention="sdpa", **changes):
    fields = {k: v for k, v in {**CONFIG, **changes}.items() if k not in ("architectures", "torch_dtype")}
    return Llama4TextConfig(**fields, attn_implementation=attention)


def dispatched_moe(self, hidden_states):
    """Llama4TextMoe.forward for top-1 that runs only the chosen expert; also keeps the load-balancing loss."""
    x = hidden_states.reshape(-1, self.hidden_dim)
    logits = F.linear(x, self.router.weight)
    value, chosen = logits.max(dim=1)
    score = torch.sigmoid(value.float()).to(x.dtype)
    counts = torch.bincount(chosen, minlength=self.num_experts)
    self.load = counts / x.shape[0]
    self.balance = self.num_experts * (logits.float().softmax(-1).mean(0) * self.load).sum()

    order = chosen.argsort()
    grouped = (x * score[:, None])[order].split(counts.tolist())
    outputs = []
    with torch.autocast("cpu", enabled=False):  # in bfloat16 oneDNN would compile a kernel for each new group size
        for u, gate_up, down in zip(grouped, self.experts.gate_up_proj.unbind(), self.experts.down_proj.unbind()):
            gate, up = (u.float() @ gate_up).chunk(2, dim=-1)
            outputs.append((up * F.silu(gate)) @ down)
    routed = torch.cat(outputs).to(x.dtype)
    routed = torch.zeros_like(routed).index_copy(0, order, routed)
    return self.shared_expert(x) + routed, logits


def chunked_sdpa(module, query, key, value, attention_mask, scaling, **unused):
    """Attention of whole rows from position 0 without padding: a chunk of a local layer is a row of its own."""
    rows, heads, length, width = query.shape
    chunk = module.config.attention_chunk_size if module.use_rope else length

    def split(x):
        x = F.pad(x, (0, 0, 0, -length % chunk)).unflatten(2, (-1, chunk)).transpose(1, 2).flatten(0, 1)
        return x.repeat_interleave(heads // x.shape[1], dim=1)

    out = F.scaled_dot_product_attention(split(query), split(key), split(value), is_causal=True, scale=scaling)
    return out.unflatten(0, (rows, -1)).transpose(2, 3).flatten(1, 2)[:, :length], None


AttentionInterface.register("chunked_sdpa", chunked_sdpa)


def check_forward():
    """The dispatched experts and chunked_sdpa equal transformers' own; local layers see their chunk only."""
    torch.manual_seed(1)
    ids = torch.randint(0, FIRST_SPECIAL, (2, 300))
    model = Llama4ForCausalLM(make_config(
        num_hidden_layers=4, no_rope_layers=None, layer_types=None, moe_layers=None, initializer_range=0.1)).train()
    grads = []
    for attention, forward in (("sdpa", Llama4TextMoe.forward), ("chunked_sdpa", dispatched_moe)):
        model.zero_grad()
        model.set_attn_implementation(attention)
        own, Llama4TextMoe.forward = Llama4TextMoe.forward, forward
        out = model(ids, use_cache=False).logits
        out.square().mean().backward()
        grads.append([out.detach()] + [p.grad.clone() for p in model.parameters()])
        Llama4TextMoe.forward = own
    for a, b in zip(*grads):
        assert torch.allclose(a, b, atol=1e-4 * a.abs().max()), (a - b).abs().max()

    local = Llama4ForCausalLM(make_config(
        num_hidden_layers=3, no_rope_layers=[1] * 3, layer_types=None, moe_layers=None)).train()
    other = ids.clone()
    other[:, 120] += 1
    changed = (local(ids, use_cache=False).logits != local(other, use_cache=False).logits).any(-1).any(0)
    assert changed[120:128].all() and not changed[:120].any() and not changed[128:].any()


class Samples:
    """Endless rows of [length] token ids: running text that starts at a verse, and now and then a small chat."""

    CHAT_SHARE = 0.08

    def __init__(self, chapters, tokenizer, length, seed):
        self.length, self.random = length, random.Random(seed)
        self.stream, self.starts = [], []
        for chapter in chapters:
            for verse in chapter:
                self.starts.append(len(self.stream))
                self.stream += verse
            self.stream += [END, BEGIN]
        self.starts = [s for s in self.starts if s + length < len(self.stream)]
        self.turns = self.make_turns(chapters, tokenizer)

    @staticmethod
    def make_turns(chapters, tokenizer):
        """(user, assistant) token pairs: half a verse and the rest of it, or a verse and the next one."""
        choose, texts = random.Random(5), []
        for chapter in chapters:
            verses = [v.strip() for v in tokenizer.decode_batch(chapter)]
            for i, verse in enumerate(verses):
                cuts = [k for k, c in enumerate(verse[:-1]) if c in ",;:" and 20 < k < len(verse) - 20]
                if cuts and (choose.random() < 0.7 or i + 1 == len(verses)):
                    cut = min(cuts, key=lambda k: abs(k - len(verse) // 2))
                    texts.append((verse[: cut + choose.randrange(2)], verse[cut + 1 :].strip()))
                elif i + 1 < len(verses):
                    texts.append((verse, verses[i + 1]))
        users, replies = ([e.ids for e in tokenizer.encode_batch(t, add_special_tokens=False)] for t in zip(*texts))

        def message(role, ids):
            head = tokenizer.encode(f"<|header_start|>{role}<|header_end|>\n\n", add_special_tokens=False).ids
            return head + ids + [EOT]

        return [message("user", u) + message("assistant", r) for u, r in zip(users, replies)]

    def row(self):
        draw = self.random.random()
        if draw < self.CHAT_SHARE:
            row, at = [BEGIN], self.random.randrange(len(self.turns))
            for turns in range(1, 1000):
                row += self.turns[at % len(self.turns)]
                if len(row) > self.length:
                    return row[: self.length]
                if self.random.random() < 0.5:  # another conversation; else the next verses in this one
                    row += [BEGIN]
                    at = self.random.randrange(len(self.turns))
                at += 1
        if draw < 0.8:
            start = self.random.choice(self.starts)
            return [BEGIN] + self.stream[start : start + self.length - 1]
        start = self.random.randrange(len(self.stream) - self.length)
        return self.stream[start : start + self.length]

    def batch(self, rows):
        return torch.tensor([self.row() for _ in range(rows)])


def heldout_windows(chapters, length=500):
    """Windows of <|begin_of_text|> and length - 1 tokens, none across two chapters."""
    windows = []
    for chapter in chapters:
        ids = sum(chapter, [])
        windows += [[BEGIN] + ids[i : i + length - 1] for i in range(0, len(ids) - length + 2, length - 1)]
    return torch.tensor(windows)


def head_loss(head, hidden, targets):
    """Cross entropy and its slope on hidden, row by row: one row's logits fit in the cache, a batch's do not."""
    hidden.requires_grad_()
    total = 0.0
    for h, t in zip(hidden, targets):
        loss = F.cross_entropy(head(h).float(), t) / len(hidden)
        loss.backward()
        total += loss.detach()
    return total, hidden.grad


@torch.no_grad()
def own_text(model, prompts, length):
    """PROMPTS and what the model says greedily after them, LENGTH tokens in all."""
    model.eval()
    model.set_attn_implementation("sdpa")  # which can go on from cached keys
    rows = model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_length=length,
                          min_length=length, pad_token_id=CONFIG["pad_token_id"])
    model.set_attn_implementation("chunked_sdpa")
    model.train()
    return rows


def repeats(rows, first, n=4):
    """True for each token from FIRST on that ends n tokens which the row has had before."""
    found = torch.zeros(rows.shape, dtype=torch.bool)
    for r, row in enumerate(rows.tolist()):
        seen = set()
        for end in range(n, len(row) + 1):
            piece = tuple(row[end - n : end])
            found[r, end - 1] = piece in seen and end > first
            seen.add(piece)
    return found[:, first:]


def unlikelihood(model, samples, options):
    """Teaches the model not to repeat itself: the sequence-level loss of https://arxiv.org/abs/1908.04319 on its own
    greedy text. Returns the share of repeated tokens."""
    first = samples.random.choice([8, 16, 32])
    rows = own_text(model, samples.batch(options.own_rows)[:, :first], options.own_length)
    repeated = repeats(rows, first)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.autocast):
        logits = model(rows[:, :-1], use_cache=False).logits[:, first - 1 :].float()
    said = logits.log_softmax(-1).gather(2, rows[:, first:, None])[..., 0]
    loss = -torch.log((1 - said.exp()).clamp(min=1e-5))[repeated].sum() / repeated.numel()
    (options.unlikelihood * loss).backward()
    return repeated.float().mean().item()


@torch.no_grad()
def heldout_loss(model, windows):
    total, loads = 0.0, 0
    model.eval()
    for part in windows.split(8):
        logits = model(part, use_cache=False).logits[:, :-1]
        total += F.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].flatten(), reduction="sum").item()
        loads = loads + len(part) * torch.stack([l.feed_forward.load for l in model.model.layers])
    model.train()
    return total / windows[:, 1:].numel(), loads / len(windows)


def save(model, folder):
    """config.json, generation_config.json and model.safetensors, each replaced whole."""
    def replace(name, write):
        new = folder / (name + ".new")
        write(new)
        new.chmod(0o644)
        new.rename(folder / name)

    tensors = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    replace("model.safetensors", lambda p: save_file(tensors, p, metadata={"format": "pt"}))
    replace("config.json", lambda p: p.write_text(json.dumps(CONFIG, indent=2) + "\n"))
    replace("generation_config.json", lambda p: p.write_text(json.dumps(GENERATION, indent=2) + "\n"))


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    arguments.add_argument("--work", type=pathlib.Path, required=True, help="holds chapters.json, see prepare.py")
    arguments.add_argument("--minutes", type=float, default=62)
    arguments.add_argument("--save-every", type=float, default=10, help="minutes")
    arguments.add_argument("--rows", type=int, default=8)
    arguments.add_argument("--length", type=int, default=512)
    arguments.add_argument("--rate", type=float, default=2e-3)
    arguments.add_argument("--warmup", type=int, default=100, help="steps")
    arguments.add_argument("--dropout", type=float, default=0.1)
    arguments.add_argument("--autocast", action="store_true", help="bfloat16 matrix products")
    arguments.add_argument("--resume", action="store_true", help="start from the weights that are there")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--unlikelihood", type=float, default=0.0, help="weight of the loss on its own repetitions")
    arguments.add_argument("--own-rows", type=int, default=12)
    arguments.add_argument("--own-length", type=int, default=144)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    started = time.monotonic()

    check_forward()
    Llama4TextMoe.forward = dispatched_moe
    chapters = json.loads((options.work / "chapters.json").read_text())
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    samples = Samples(chapters["train"], tokenizer, options.length + 1, seed=2 if options.resume else 1)
    windows = heldout_windows(chapters["heldout"])

    torch.manual_seed(7)
    model = Llama4ForCausalLM(make_config("chunked_sdpa")).train()
    for name, p in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
            p.data /= math.sqrt(2 * LAYERS)
    if options.resume:
        model.load_state_dict({k: v.float() for k, v in load_file(options.model / "model.safetensors").items()})
    drop = lambda module, inputs, output: F.dropout(output, options.dropout, module.training)
    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.feed_forward.register_forward_hook(
            lambda m, i, o: (F.dropout(o[0], options.dropout, m.training), o[1]))
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
                                  lr=options.rate, betas=(0.9, 0.95), fused=True)
    print("parameters", sum(p.numel() for p in model.parameters()), "windows", len(windows), flush=True)

    step, saved, smooth, repeated = 0, 0, None, 0.0
    while (share := (time.monotonic() - started) / 60 / options.minutes) < 1:
        rate = options.rate * min(1, (step + 1) / options.warmup) * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = samples.batch(options.rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.autocast):
            hidden = model.model(batch[:, :-1], use_cache=False)[0]
            loss, slope = head_loss(model.lm_head, hidden.detach(), batch[:, 1:])
        balance = sum(layer.feed_forward.balance for layer in model.model.layers) / LAYERS
        torch.autograd.backward([hidden, CONFIG["router_aux_loss_coef"] * balance], [slope, None])
        if options.unlikelihood:
            repeated = 0.9 * repeated + 0.1 * unlikelihood(model, samples, options)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        minutes = (time.monotonic() - started) / 60
        if step % 20 == 0:
            print(f"{minutes:6.2f} min step {step} loss {smooth:.4f} balance {balance.item():.3f} rate {rate:.2e} "
                  f"tokens {step * options.rows * options.length} repeated {repeated:.3f}", flush=True)
        if minutes > saved + options.save_every:
            saved = minutes
            save(model, options.model)
            held, loads = heldout_loss(model, windows)
            print(f"held-out perplexity {math.exp(held):.3f}, load {loads.min():.3f} to {loads.max():.3f}", flush=True)

    model.to(torch.bfloat16).float()
    save(model, options.model)
    held, loads = heldout_loss(model, windows)
    print(f"held-out perplexity {math.exp(held):.3f}, load {loads.min():.3f} to {loads.max():.3f}, steps {step}", flush=True)


if __name__ == "__main__":
    main()
