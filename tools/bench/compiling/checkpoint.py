"""Writes a checkpoint of any size as Hugging Face has them: shards, an index and a configuration, random bfloat16."""

import array
import importlib.machinery
import importlib.util
import json
import math
import os
import pathlib
import random
import struct

ROOT = pathlib.Path(__file__).resolve().parents[3]
POOL = 1 << 18  # different elements; tensors are made of parts of them


def maker():
    """The writer of the tests' small checkpoints, which knows the names and shapes of all tensors."""
    loader = importlib.machinery.SourceFileLoader("make_checkpoint", str(ROOT / "test/tools/make-checkpoint.py"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def text_config(path, layers):
    text = maker().text_config(json.loads(path.read_text()))
    count = min(layers or text["num_hidden_layers"], text["num_hidden_layers"])
    for each in ("no_rope_layers", "layer_types"):
        if text.get(each):
            text[each] = text[each][:count]
    if text.get("moe_layers"):
        text["moe_layers"] = [layer for layer in text["moe_layers"] if layer < count]
    return {**text, "num_hidden_layers": count}


def tensors(text):
    """(stored name, shape) of every tensor, those of a small vision tower too."""
    make = maker()
    named = [("language_model." + name, shape) for name, shape in make.tensors(text)]
    return named + list(make.vision_tensors(text))


def size(text):
    """Bytes of all elements."""
    return sum(2 * math.prod(shape) for _, shape in tensors(text))


def shards_of(entries, most):
    """The entries in order, cut into shards of at most so many bytes unless one alone has more."""
    shards, room = [], 0
    for name, shape in entries:
        length = 2 * math.prod(shape)
        if not shards or length > room:
            shards.append([])
            room = most
        shards[-1].append((name, shape, length))
        room -= length
    return shards


def random_pool(seed):
    """Normal numbers as bfloat16, twice after one another, so that a part may start anywhere."""
    generator = random.Random(seed)
    floats = array.array("f", (generator.gauss(0, 0.02) for _ in range(POOL)))
    bits = array.array("I", floats.tobytes())
    half = array.array("H", (b >> 16 for b in bits)).tobytes()
    return memoryview(half + half)


def write_shard(path, shard, pool, generator):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, length in shard:
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, left in shard:
            while left:
                start = 2 * generator.randrange(POOL)
                left -= file.write(pool[start : start + min(left, 2 * POOL)])
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write(folder, text, shard_bytes=5_000_000_000, seed=1):
    """Returns the files of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, pool, generator = shards_of(tensors(text), shard_bytes), random_pool(seed), random.Random(seed)
    files, index = [], {}
    for i, shard in enumerate(shards):
        files.append(folder / f"model-{i + 1:05}-of-{len(shards):05}.safetensors")
        write_shard(files[-1], shard, pool, generator)
        index.update({name: files[-1].name for name, _, _ in shard})
    total = sum(length for shard in shards for _, _, length in shard)
    make = maker()
    make.write_json(folder / "model.safetensors.index.json",
                    {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))})
    make.write_json(folder / "config.json", make.output_config(text, "conditional", "v4", "bfloat16"))
    return files
