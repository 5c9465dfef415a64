"""The files of a run: our plans and llama.cpp's GGUF files of one model, made when they are needed."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

from . import convert, tensors, weights
from .programs import Failure, Theirs
from .vocabulary import Vocabulary

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
SEED = 1


def call(command, what):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{what} failed: {' '.join(map(str, command))}\n{done.stderr.strip()}")


def compile(moec, source, storage, output, *more):
    """A plan for this processor. False if moec does not know such a storage of weights."""
    command = [moec, "compile", source, "--target", "cpu:native", "--weights", storage, "-o", output, *more]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode and f"'{storage}'" not in done.stderr:
        raise Failure(f"compiling failed: {' '.join(map(str, command))}\n{done.stderr.strip()}")
    return done.returncode == 0


def compiles(moec, storage):
    made_up = ["--random-weights", SEED, "--layers", 1, "--emit=fused"]
    return compile(moec, CONFIGS / "mini", storage, os.devnull, *made_up)


class Model:
    """A model whose weights and vocabulary are made up, the same for both sides."""

    def __init__(self, name, folder, moec, say):
        self.name, self.folder, self.moec, self.say = name, pathlib.Path(folder), moec, say
        self.source = CONFIGS / name
        self.config = tensors.read_config(self.source)
        self.vocabulary = Vocabulary(*(self.config[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")))

    def plan(self, storage):
        path = self.folder / f"{self.name}-{storage}.plan"
        if not path.exists():
            self.say(f"  moec compile {self.name} --weights {storage}")
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                source = pathlib.Path(folder)
                shutil.copy(self.source / "config.json", source)
                self.vocabulary.write_tokenizer(source / "tokenizer.json")
                # llama.cpp keeps keys and values in 16 bits too.
                made = compile(self.moec, source, storage, path, "--cache", "bf16", "--random-weights", SEED)
            if not made:
                raise Failure(f"moec has no --weights {storage}")
        return path

    def bfloat16(self):
        path = self.folder / f"{self.name}-BF16.gguf"
        if not path.exists():
            self.say(f"  writing {path.name}")
            convert.write(path, self.config, weights.RandomWeights(SEED), self.name, vocabulary=self.vocabulary)
        return path

    def gguf(self, format, llama, threads):
        """`llama`: a worker that quantizes."""
        if format == "BF16":
            return self.bfloat16()
        path = self.folder / f"{self.name}-{format}.gguf"
        if not path.exists():
            source = self.bfloat16()
            self.say(f"  llama.cpp quantizes {path.name}")
            quantize(llama, source, path, format, threads)
        return path


def quantize(llama, source, path, format, threads):
    temporary = f"{path}.partial"
    llama.ask("quantize", source=str(source), target=temporary, format=format, threads=threads)
    os.replace(temporary, path)


def correlation(tools, plan, gguf, vocab, threads, tokens=64):
    """Of the logits that both sides give for the same random tokens: the median over these."""
    ids = np.random.default_rng(1).integers(0, vocab, tokens).tolist()
    with tempfile.TemporaryDirectory(dir=plan.parent) as folder, Theirs() as llama:
        listed, ours, theirs = (pathlib.Path(folder) / name for name in ("ids", "ours.npy", "theirs.npy"))
        listed.write_text(" ".join(map(str, ids)))
        call([tools / "moe-run", "score", plan, "--tokens", listed, "--logits", ours, "--device", "cpu",
              "--threads", threads], "scoring")
        llama.load(gguf, tokens, threads, exact=True)
        llama.ask("score", tokens=ids, window=tokens, out=str(theirs))
        rows = zip(np.load(ours).astype(np.float64), np.load(theirs).astype(np.float64))
        return float(np.median([np.corrcoef(a, b)[0, 1] for a, b in rows]))


def warm(path):
    """Reads a file, so that it is in the page cache."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 22)
        while file.readinto(buffer):
            pass
