"""Where weights come from: a checkpoint as Hugging Face has them, or a seed. Needs numpy.

Both give bfloat16, as unsigned 16-bit integers, of a tensor or of one expert of it.
"""

import concurrent.futures
import json
import math
import os
import pathlib

import numpy as np


class Checkpoint:
    """A folder with safetensors files in bfloat16, mapped."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        index = folder / "model.safetensors.index.json"
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        self.tensors = {}
        for path in sorted(folder / name for name in names):
            data = np.memmap(path, np.uint8, "r")
            length = int(data[:8].view(np.uint64)[0])
            header = json.loads(data[8 : 8 + length].tobytes())
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                if entry["dtype"] != "BF16":
                    raise ValueError(f"{path}: {name} is {entry['dtype']}, only BF16 is converted")
                raw = data[8 + length + begin : 8 + length + end]
                self.tensors[name] = raw.view(np.uint16).reshape(entry["shape"])

    def shape(self, name, expected):
        shape = tuple(self.tensors[name].shape) if name in self.tensors else None
        if shape != tuple(expected):
            raise ValueError(f"the checkpoint has {name} as {shape}, its configuration says {tuple(expected)}")

    def read(self, name, shape, expert=None):
        self.shape(name, shape)
        tensor = self.tensors[name]
        return tensor if expert is None else tensor[expert]


class RandomWeights:
    """The weights of `moec compile CONFIG --random-weights SEED`, by the same formula
    (compiler/import/RandomWeights.h), for a configuration in bfloat16."""

    def __init__(self, seed):
        self.seed = seed

    def read(self, name, shape, expert=None):
        first, count = 0, math.prod(shape)
        if expert is not None:
            count //= shape[0]
            first, result = expert * count, np.empty(shape[1:], np.uint16)
        else:
            result = np.empty(shape, np.uint16)
        flat, piece = result.reshape(-1), 1 << 18  # fits in the nearer caches
        start, offset, scale = self.generator(name, shape)

        def fill(at):
            generate(start, first + at, offset, scale, flat[at : at + piece])

        # numpy lets other threads run while it computes
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(fill, range(0, count, piece)))
        return result

    def generator(self, name, shape):
        number = fnv1a64(name) ^ self.seed * 0x9E3779B97F4A7C15 % 2**64
        start = number * 0xD1342543DE82EF95 % 2**64
        if len(shape) == 1:
            return start, 1.0, 0.5
        if name == "model.embed_tokens.weight":
            return start, 0.0, 2.0
        return start, 0.0, 2 * math.sqrt(3 / shape[1])


def fnv1a64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def generate(start, first, offset, scale, out):
    z = np.arange(first + 1, first + 1 + out.size, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(start)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    z >>= np.uint64(40)
    u = z.astype(np.float64)
    u *= 2.0**-24
    u -= 0.5
    u *= scale
    u += offset
    bits = u.astype(np.float32).view(np.uint32)
    bits += 0x7FFF + (bits >> 16 & 1)  # to the nearest, ties to even
    bits >>= 16
    out[:] = bits
