#!/usr/bin/env python3
"""Makes the golden files of models/cria from transformers: cria/ and tokenizer-cria.json, described in README.md.

    make-cria-goldens.py --work DIR       DIR holds chapters.json of models/cria/prepare.py

Run it after every training: each file names the weights that it belongs to.
"""

import argparse
import hashlib
import json
import math
import pathlib
import struct
import sys

import tokenizers
import torch
import transformers
from transformers import Llama4ForCausalLM
from transformers.models.llama4.modeling_llama4 import Llama4Router

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE.parent.parent / "models" / "cria"
sys.path.insert(0, str(MODEL))
from train import BEGIN, heldout_windows  # noqa: E402

WINDOWS = 4  # of 500 tokens, spread over the held-out text
TOP = 64
PROMPT, POSITIONS, GREEDY = 400, [0, 127, 128, 129, 255, 256, 384, 399], 48


def load(dtype):
    return Llama4ForCausalLM.from_pretrained(MODEL, dtype=dtype, attn_implementation="sdpa").eval()


@torch.no_grad()
def logprobs(model, ids):
    """[tokens, vocab] in float64, from the logits as the model gives them."""
    return model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)


def perplexity(pairs):
    """Of [(logprobs, ids)]: each row predicts the next token."""
    losses = torch.cat([-p[:-1].gather(1, torch.tensor(ids[1:])[:, None]) for p, ids in pairs])
    return math.exp(losses.mean())


def log_rest(p, top):
    """The logarithm of the mass outside the ids `top`, by summing what is outside."""
    return p.scatter(1, top, -math.inf).logsumexp(-1)


def quality(f32, bf16, heldout, all_windows):
    """reference.json and the reference distributions: how good transformers is, in float32 and in bfloat16."""
    exact, bucketed, tops, kept, rests = [], [], [], [], []
    windows = {"float32": [], "bfloat16": []}
    pairs32, pairs16 = [], []
    for ids in heldout:
        p, q = logprobs(f32, ids), logprobs(bf16, ids)
        pairs32.append((p, ids))
        pairs16.append((q, ids))
        windows["float32"].append(perplexity(pairs32[-1:]))
        windows["bfloat16"].append(perplexity(pairs16[-1:]))
        exact.append((p.exp() * (p - q)).sum(-1))
        kept_p, top = p.topk(TOP)
        rest_p, rest_q = log_rest(p, top), log_rest(q, top)
        bucketed.append((kept_p.exp() * (kept_p - q.gather(1, top))).sum(-1) + rest_p.exp() * (rest_p - rest_q))
        tops.append(top)
        kept.append(kept_p)
        rests.append(rest_p)

    tops, kept, rests = torch.cat(tops), torch.cat(kept), torch.cat(rests)
    count = len(rests)
    with open(HERE / "cria" / "reference.bin", "wb") as file:
        file.write(b"MOEREF01" + struct.pack("<4I", count, TOP, f32.config.vocab_size, 0))
        file.write(struct.pack(f"<{count * TOP}H", *tops.flatten().tolist()))
        file.write(struct.pack(f"<{count * TOP}f", *kept.flatten().tolist()))
        file.write(struct.pack(f"<{count}f", *rests.tolist()))

    every = {}
    for name, model in (("float32", f32), ("bfloat16", bf16)):
        every[name] = perplexity([(logprobs(model, ids), ids) for ids in all_windows])
    exact, bucketed = torch.cat(exact), torch.cat(bucketed)
    return {
        "perplexity": {"float32": perplexity(pairs32), "bfloat16": perplexity(pairs16)},
        "perplexity_per_window": windows,
        "perplexity_of_all_windows": {"windows": len(all_windows), **every},
        "bfloat16_kl": {"bucketed_mean": bucketed.mean().item(), "bucketed_max": bucketed.max().item(),
                        "exact_mean": exact.mean().item(), "exact_max": exact.max().item()},
    }


@torch.no_grad()
def greedy(model, ids, count):
    """[(id, margin to the second best)], running all tokens each time."""
    ids, chosen = list(ids), []
    for _ in range(count):
        best = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        chosen.append((best.indices[0].item(), (best.values[0] - best.values[1]).item()))
        ids.append(chosen[-1][0])
    return chosen


@torch.no_grad()
def golden_prompt(f32, candidates):
    """Of the candidate prompts, the one whose nearest tie (between experts or between greedy tokens) is widest."""
    margin = [math.inf]

    def note(module, inputs, output):
        best = output[1].topk(module.top_k + 1).values
        margin[0] = min(margin[0], (best[:, -2] - best[:, -1]).min().item())

    hooks = [m.register_forward_hook(note) for m in f32.modules() if isinstance(m, Llama4Router)]
    best = None
    for ids in candidates:
        margin[0] = math.inf
        logits = f32(torch.tensor([ids]), use_cache=False).logits[0]
        if best and margin[0] <= best[0]:
            continue
        tokens = greedy(f32, ids, GREEDY)
        width = min(margin[0], min(m for _, m in tokens) / 10)
        if best is None or width > best[0]:
            best = width, margin[0], ids, logits, tokens
    for hook in hooks:
        hook.remove()
    _, router, ids, logits, tokens = best
    return {
        "ids": ids,
        "positions": POSITIONS,
        "logits": [[float(f"{x:.7g}") for x in logits[p].tolist()] for p in POSITIONS],
        "argmax": logits.argmax(-1).tolist(),
        "greedy": [t for t, _ in tokens],
        "greedy_margins": [float(f"{m:.3g}") for _, m in tokens],
        "router_margin": float(f"{router:.3g}"),
    }


def tokenizer_texts():
    """Texts that reach every rule of the tokenizer: its pattern, its merges, its special tokens."""
    texts = [
        "", " ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", " \n", "\n ", " \n \n ", "\t\t\n", "a\n", "a \n",
        "a  \n  b", "a\r\nb\r\n", "a\n\n\nb", "  leading", "trailing  ", "tab\there   ", "a b", "a  b", "a   b", "a    b",
        "a\u00a0b", "a\u2003\u2003b", "\u3000\u3000", "a\u2028b\u2029c", "x\u0085y", "\u200bzero\u200bwidth", "\ufeffbom",
        "Hello world", "Hello, how are you?", "In the beginning God created the heaven and the earth.",
        "And God said, Let there be light: and there was light.", "THE LORD", "LORD's", "the LORD'S house",
        "Don't HELLO'LL camelCase", "I'm you're he'd we'll they've it's isn't 'tis", "'s't're've'm'll'd", "IT'S I'M YOU'RE",
        "'S 'T 'Re 'vE 'M 'Ll 'D", "rock 'n' roll", "it\u2019s", "o'clock", "'", "''", "'a", "a'", "a'sb", "'\u017f",
        "begat", "Nebuchadnezzar", "Mahershalalhashbaz", "Chedorlaomer king of Elam", "antidisestablishmentarianism",
        "x", "xyzzy", "supercalifragilisticexpialidocious", "HTTPServer", "iPhone", "McDonald", "aBcDeF", "ABCdefGHI",
        "0", "12", "123", "1234", "12345", "1234567", "3.14159", "1,000,000", "2024-11-22", "a1b22c333d4444", "\u0661\u0662\u0663\u0664",
        "\u00b2\u00b3\u00b9", "\u2160\u2161\u2162", "\u00bd\u00bc", "\uff11\uff12\uff13\uff14", "\u0967\u0968\u0969\u096a",
        ".", "..", "...", "....", "!?", "?!?!", " ...", "a.b", "a..b", "(a)", "[x]", "{}", "a/b//c\r\n", "http://example.com/a/b?c=d&e=f#g",
        "//\n//\n", "...\n\n/", "--- --- ---", "a - b -- c --- d", "$5.00", "50%", "#hash @at", "a_b__c", "\\n\\t", "\"quoted\"", "`code`",
        "def f(x):\n    return x", "\tif (a) {\n\t\tb();\n\t}\n", "x = [1, 2, 3];", "<html></html>", "a<b>c", "^_^", "+-*/=", "~~~~",
        "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8", "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8", "\u3042\u30fc\u3044", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
        "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05d1\u05e8\u05d0\u05e9\u05d9\u05ea \u05d1\u05e8\u05d0", "\u05d1\u05bc\u05b0\u05e8\u05b5\u05d0\u05e9\u05c1\u05b4\u05d9\u05ea", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", "\u0395\u03bd \u03b1\u03c1\u03c7\u03ae \u03ae\u03bd \u03bf \u03bb\u03cc\u03b3\u03bf\u03c2",
        "caf\u00e9", "cafe\u0301", "e\u0301\u0302\u0303", "\u0301lone", " \u0301x", "na\u00efve \u00c5ngstr\u00f6m", "Stra\u00dfe STRASSE", "\u01c5 \u01c8 \u01cb", "\u01c5a A\u01c5", "\u01c6\u01c5\u01c4",
        "\u02b0a a\u02b0A", "\u1d2c\u1d2da", "\u00aa\u00ba", "\u2071\u207f", "\u0133 \ufb01n", "\U00010400\U00010428", "\U0001d54f\U0001d7d8", "\U00020000\U0002a6df",
        "\U0001f642 emoji", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1fa\U0001f1f3", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\u263a", "\u20ac\u00a3\u00a5", "\u2192\u21d2\u2200\u2203", "\u00ab\u00bb\u201c\u201d\u2018\u2019\u2013\u2014\u2026",
        "\x00", "a\x00b", "\x01\x02\x1b[0m", "\x7f", "\ue000", "\ufffd", "\U0010ffff", "\u0378",
        "a" * 100, "A" * 100, "ab" * 64, " " * 100, "\n" * 50, "9" * 50, "." * 70, "=" * 33, "the " * 40, "\u65e5" * 30, "\U0001f600" * 12, "aA" * 20,
        "<|begin_of_text|>", "<|eot|>", "<|end_of_text|>x", "a<|eot|>b", " <|eot|> ", "<|eot|><|eot|>", "<|eot|", "<|EOT|>", "<|eo<|eot|>t|>", "<| eot |>",
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\nIn the beginning<|eot|><|header_start|>assistant<|header_end|>\n\n",
        "<|python_start|>f(1)<|python_end|><|eom|>", "<|finetune_right_pad|><|step|>", "<|text_post_train_reserved_special_token_10|>",
        "<|text_post_train_reserved_special_token_1", "<|unknown|>",
        "Now it came to pass in the days when the judges ruled, that there was a famine in the land.\nAnd a certain man of Bethlehemjudah went to sojourn.\n",
    ]
    assert len(texts) == len(set(texts))
    return texts


def tokenizer_goldens():
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    cases = []
    for text in tokenizer_texts():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text).ids == [BEGIN] + ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        cases.append({"text": text, "ids": ids})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = f'{{"tokenizers":"{tokenizers.__version__}",\n"tokenizer":"models/cria/tokenizer.json",\n"cases":[\n'
    (HERE / "tokenizer-cria.json").write_text(head + lines + "\n]}\n")
    print("tokenizer cases", len(cases))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--work", type=pathlib.Path, required=True)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    (HERE / "cria").mkdir(exist_ok=True)
    tokenizer_goldens()

    chapters = json.loads((options.work / "chapters.json").read_text())["heldout"]
    every = heldout_windows(chapters).tolist()
    picked = [i * len(every) // WINDOWS + 3 for i in range(WINDOWS)]
    heldout = [every[i] for i in picked]
    (HERE / "cria" / "heldout.txt").write_text("".join(" ".join(map(str, ids)) + "\n" for ids in heldout))

    weights = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    head = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "weights": weights}
    f32, bf16 = load(torch.float32), load(torch.bfloat16)
    reference = {**head, **quality(f32, bf16, heldout, every)}
    (HERE / "cria" / "reference.json").write_text(json.dumps(reference, indent=2) + "\n")
    print(json.dumps(reference, indent=1))

    others = [ids[:PROMPT] for i, ids in enumerate(every) if i not in picked]
    prompt = golden_prompt(f32, others)
    compact = lambda value: json.dumps(value, separators=(",", ":"))
    lines = [f"{compact(k)}:{compact(v)}" for k, v in {**head, "dtype": "float32", "config_case": "cria"}.items()]
    rows = "{" + ",\n".join(f"{compact(k)}:{compact(v)}" for k, v in prompt.items()) + "}"
    (HERE / "cria" / "golden.json").write_text("{" + ",\n".join(lines) + ',\n"prompts":[\n' + rows + "\n]}\n")
    text = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    print("margins", min(prompt["greedy_margins"]), prompt["router_margin"])
    print(text.decode(prompt["ids"][-60:]), "||", text.decode(prompt["greedy"]))


if __name__ == "__main__":
    main()
