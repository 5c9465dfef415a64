"""Makes cria's corpus and its tokenizer: chapters.json (token ids) and the tokenizer files of a Hugging Face checkpoint.

The text is the King James Version as the Debian packages bible-kjv and bible-kjv-text print it.
"""

import argparse
import json
import pathlib
import re
import subprocess

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import AddedToken
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

VOCAB_ROWS = 4096
# Llama 4's own special tokens in their own order; the rest of the 64 are reserved, as Llama 4 has them.
SPECIALS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>",
    "<|text_post_train_reserved_special_token_0|>", "<|text_post_train_reserved_special_token_1|>",
    "<|text_post_train_reserved_special_token_2|>", "<|text_post_train_reserved_special_token_3|>",
    "<|text_post_train_reserved_special_token_4|>", "<|text_post_train_reserved_special_token_5|>",
    "<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>",
]
SPECIALS += [f"<|text_post_train_reserved_special_token_{i}|>" for i in range(8, 8 + 64 - len(SPECIALS))]
FIRST_SPECIAL = VOCAB_ROWS - len(SPECIALS)

# The o200k pattern, exactly as Llama 4's tokenizer.json has it.
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Runs of held-out chapters: every 68th pair of neighbours, about 3 % of the text.
HELD_OUT_PERIOD, HELD_OUT_RUN, HELD_OUT_FIRST = 68, 2, 40


def read_chapters(bible):
    """[[verse, ...] of each chapter, in order], from the output of the `bible` command."""
    printed = subprocess.run([bible, "-f"], input="gen1:1-rev22:21\n", capture_output=True, text=True, check=True)
    chapters, last = [], None
    for line in printed.stdout.split("\n", 4)[4].splitlines():  # after the greeting and the echoed request
        line = re.sub(r"^bible\(KJV\) \[[^\]]*\]> ", "", line)
        verse = re.match(r"([1-3]?[A-Za-z]+)(\d+):(\d+) (.*)", line)
        if not verse:
            continue
        if last != (verse[1], verse[2]):
            last = (verse[1], verse[2])
            chapters.append([])
        text = re.sub(r"[\[\]<>]", "", verse[4])
        chapters[-1].append(re.sub(r"\s+", " ", text).strip())
    return chapters


def train_tokenizer(texts):
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trained.train_from_iterator(texts, BpeTrainer(
        vocab_size=FIRST_SPECIAL, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))

    parts = json.loads(trained.to_str())
    parts["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    begin = SPECIALS[0]
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True),
        processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, FIRST_SPECIAL)]),
    ])
    assert tokenizer.get_vocab_size() == VOCAB_ROWS
    assert [tokenizer.token_to_id(s) for s in SPECIALS] == list(range(FIRST_SPECIAL, VOCAB_ROWS))
    assert all(tokenizer.token_to_id(c) is not None for c in pre_tokenizers.ByteLevel.alphabet())
    return tokenizer


def save_tokenizer(tokenizer, folder):
    tokenizer.save(str(folder / "tokenizer.json"))

    def write(name, value):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>", "pad_token": "<|finetune_right_pad|>"}
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write("tokenizer_config.json", {
        "added_tokens_decoder": {
            str(FIRST_SPECIAL + i): {"content": s, **token} for i, s in enumerate(SPECIALS)},
        "bos_token": names["bos_token"],
        "clean_up_tokenization_spaces": False,
        "eos_token": names["eos_token"],
        "extra_special_tokens": {},
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1024,
        "pad_token": names["pad_token"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
    write("special_tokens_map.json", {
        k: {"content": v, **{f: token[f] for f in ("lstrip", "normalized", "rstrip", "single_word")}}
        for k, v in names.items()})


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bible", default="bible", help="the command of the Debian package bible-kjv")
    arguments.add_argument("--model", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    arguments.add_argument("--work", type=pathlib.Path, required=True, help="where chapters.json goes")
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    chapters = read_chapters(options.bible)
    assert len(chapters) == 1189 and sum(map(len, chapters)) == 31102
    held = [(i - HELD_OUT_FIRST) % HELD_OUT_PERIOD < HELD_OUT_RUN for i in range(len(chapters))]
    tokenizer = train_tokenizer(["\n".join(c) for c, h in zip(chapters, held) if not h])
    save_tokenizer(tokenizer, options.model)

    def encode(c):
        # A verse keeps its newline, so that verses concatenate to the tokens of the chapter.
        lines = [v + "\n" for v in c[:-1]] + [c[-1]]
        return [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)]

    data = {"train": [encode(c) for c, h in zip(chapters, held) if not h],
            "heldout": [encode(c) for c, h in zip(chapters, held) if h]}
    for c, encoded in zip([c for c, h in zip(chapters, held) if h], data["heldout"]):
        assert sum(encoded, []) == tokenizer.encode("\n".join(c), add_special_tokens=False).ids
    (options.work / "chapters.json").write_text(json.dumps(data))
    for name, part in data.items():
        print(name, len(part), "chapters,", sum(len(v) for c in part for v in c), "tokens")
    print("characters", sum(len(v) + 1 for c in chapters for v in c))


if __name__ == "__main__":
    main()
