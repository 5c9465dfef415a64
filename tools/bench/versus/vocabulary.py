"""A made-up vocabulary for a model whose weights are made up: byte-level BPE as Llama 4 has it. Standard library only.

Both sides get the same one, as tokenizer.json and as the keys of a GGUF file, so that servers can be asked in the same
way. Its tokens are the 256 bytes and pieces of up to four small letters, of which some begin with a space.
"""

import itertools
import json
import string

# How Llama 4 cuts a text before its pieces are merged (runtime/text/Pretokenizer.h has the same).
PATTERN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
           r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
           r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"


def byte_names():
    """The printable characters that stand for the bytes, as GPT-2 chose them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [names[byte] for byte in range(256)]


class Vocabulary:
    """`names` by id, `merges` as pairs of names, `special` names by id."""

    def __init__(self, size, begin, end):
        """Ids `begin` and `end` begin and end a text."""
        self.begin, self.end = begin, end
        self.special = {begin: BEGIN, end: END}
        letters, space = string.ascii_lowercase, byte_names()[ord(" ")]
        pairs = list(map("".join, itertools.product(letters, repeat=2)))
        merges = itertools.chain(
            itertools.product(letters, letters), ((space, letter) for letter in letters),
            ((space + letter, other) for letter, other in itertools.product(letters, letters)),
            itertools.product(pairs, letters),
            ((space + pair[0], pair[1] + letter) for pair in pairs for letter in letters),
            itertools.product(pairs, pairs))
        count = size - len(self.special) - 256
        self.merges = list(itertools.islice(merges, max(count, 0)))
        if count < 0 or len(self.merges) < count or begin == end or not all(0 <= i < size for i in self.special):
            raise ValueError(f"no vocabulary of {size} tokens is made up with {begin} and {end} for its special ones")
        ordinary = iter([*byte_names(), *map("".join, self.merges)])
        self.names = [self.special.get(i) or next(ordinary) for i in range(size)]

    def write_tokenizer(self, path):
        """As Hugging Face has it."""
        vocab = {name: i for i, name in enumerate(self.names) if i not in self.special}
        bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
        begins = [{"SpecialToken": {"id": BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        special = {BEGIN: {"id": BEGIN, "ids": [self.begin], "tokens": [BEGIN]}}
        file = {
            "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
            "added_tokens": [{"id": i, "content": self.special[i], "single_word": False, "lstrip": False,
                              "rstrip": False, "normalized": False, "special": True} for i in sorted(self.special)],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_alone]},
            "post_processor": {"type": "TemplateProcessing", "single": begins, "pair": begins,
                               "special_tokens": special},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                      "vocab": vocab, "merges": [list(pair) for pair in self.merges]},
        }
        path.write_text(json.dumps(file, ensure_ascii=False))
