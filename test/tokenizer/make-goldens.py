#!/usr/bin/env python3
"""Makes the small tokenizers of this folder, and what `tokenizers` encodes with them.

    pip install tokenizers && python3 make-goldens.py

  ranked.model, ranked.json    one vocabulary in Meta's form and in Hugging Face's, with every merge
                               that its ranks imply and ignore_merges, as Llama 4 has it
  trained.json                 as the trainer leaves it: one merge for each token, and special
                               tokens inside the vocabulary
  ranked.txt, trained.txt      a case per line: the text, a tab, ids between spaces. Special tokens
                               in the text are parsed, BOS is not added. Bytes of the text outside
                               printable ASCII, and the backslash, are \\xHH.

The version that made them is in their first line.
"""

import base64
import json
import pathlib
import random

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
WORD = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join([
    rf"[^\r\n\p{{L}}\p{{N}}]?{WORD[0]}*{WORD[1]}+{SUFFIX}",
    rf"[^\r\n\p{{L}}\p{{N}}]?{WORD[0]}+{WORD[1]}*{SUFFIX}",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
])
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eom|>",
            "<|eot|>", "<|eot|>>"]

# Repetitive on purpose: a few hundred merges are to make long tokens.
CORPUS = """In the beginning God created the heaven and the earth. And the earth was without form,
and void; and darkness was upon the face of the deep. It's what we've said: they'll come, I'd go.
def main(args):\n    return sum(x for x in args)\n\n    print("hello world")\n\tfor i in range(9):
It was the best of times, it was the worst of times. HELLO WORLD, HTTP://EXAMPLE.COM/a/b//c
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Съешь же ещё этих мягких булок.
日本語のテスト、日本語の文章。 🙂🙂 naïve café déjà vu    1234567890 2024-01-01\r\n\r\n"""

FRAGMENTS = [
    "'s", "'S", "'t", "'re", "'RE", "'vE", "'m", "'ll", "'LL", "'d", "'\u017f", "'", "'l",
    "\u2019s", " ", "  ", "   ", "\n", "\r", "\r\n", "\t", "\u00a0", "\u3000", "\x0b", "\x85",
    "\u2028", "\x1c", "\u200b", "!", "?", "/", ".", ",", "-", "_", "#", '"', "//", "/\n", "\\",
    "a", "A", "Ab", "aB", "ABC", "abc", "the", " the", "HELLO", "World", "1", "12", "1234",
    "\u0663", "\u2167", "\u00bd", "\u00aa", "\u02b0", "\u01c5", "中", "日本", "e\u0301",
    "\u0301", "É", "ß", "Ж", "ж", "🙂", "👩\u200d👩", "\ufe0f", "हिन्दी", "ไทย",
    "\ufeff", "\0", "\x7f", "\ufffd",
]

WRITTEN = [
    "", " ", "  ", "a", "Hello world", "Hello, how are you?", "  leading", "tab\there   ", "\n\n",
    "The quick brown fox's 12345 jumps.\n\n  done", "日本語のテスト", "Don't HELLO'LL camelCase",
    "a/b//c\r\n", "def f(x):\n    return x", "🙂 emoji", "<|eot|>", "a<|eot|>b", "<|eot|>>",
    "<|eot|", "<|eot|><|eot|>>>", "<|<|eot|>",
    "x <|header_start|>user<|header_end|>\n\nhi<|eot|>", "the " * 40, "a" * 200, " " * 200,
    "abc" * 60, "e\u0301" * 50, "\n \n \n x", " \n\t a",
]


def byte_names():
    """The printable character that stands for each byte in a vocabulary (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


NAMES = byte_names()
BYTES = {name: byte for byte, name in NAMES.items()}


def finish(tokenizer):
    """Everything around the model, as in Llama 4's tokenizer.json."""
    bos = SPECIALS[0]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A",
                                      special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    return tokenizer


def trained():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.train_from_iterator([CORPUS] * 3, trainers.BpeTrainer(
        vocab_size=640, special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return finish(tokenizer)


def ranked(source):
    """The tokens of `source` by rank, with every split that makes a token as a merge."""
    vocab = source.get_vocab(with_added_tokens=False)
    names = sorted((n for n in vocab if n not in SPECIALS), key=vocab.get)
    rank = {name: i for i, name in enumerate(names)}
    merges = [(a, b) for name in names for _, _, a, b in sorted(
        (rank[name[:i]], rank[name[i:]], name[:i], name[i:]) for i in range(1, len(name))
        if name[:i] in rank and name[i:] in rank)]
    tokens = [bytes(BYTES[c] for c in name) for name in names]
    (HERE / "ranked.model").write_text(
        "".join(f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(tokens)))
    return finish(Tokenizer(models.BPE(vocab=rank, merges=merges, ignore_merges=True)))


def cases():
    rng = random.Random(4)
    texts = list(WRITTEN)
    while len(texts) < 300:
        parts = FRAGMENTS + SPECIALS * (rng.random() < 0.2)
        texts.append("".join(rng.choice(parts) for _ in range(rng.randint(1, 16))))
    return texts


def escape(text):
    return "".join(chr(b) if 32 <= b < 127 and b != 92 else f"\\x{b:02X}" for b in text.encode())


def write(name, tokenizer):
    compact = json.loads(tokenizer.to_str())
    (HERE / f"{name}.json").write_text(json.dumps(compact, indent=0, ensure_ascii=False) + "\n")
    lines = [f"# made by make-goldens.py with tokenizers {tokenizers.__version__}"]
    for text in cases():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        lines.append(escape(text) + "\t" + " ".join(map(str, ids)))
    (HERE / f"{name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    small = trained()
    write("trained", small)
    write("ranked", ranked(small))
