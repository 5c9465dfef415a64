"""Perplexity and bits of a weight: plans and GGUF files of one checkpoint, on the same ids."""

import json
import math
import os
import pathlib
import sys
import tempfile

import numpy as np

from . import convert, machine, models, programs, report, tensors, weights
from .programs import Failure, Ours, Theirs

# Float32 on both sides, so only the order of sums differs: logits of a trained model come within 1e-4 of each
# other, unless two experts are all but equal and the sides choose differently.
AGREEMENT, MOST_OTHERWISE = 1e-3, 0.01


def say(text):
    print(text, file=sys.stderr, flush=True)


def log_probabilities(logits):
    x = np.asarray(logits, np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


class Quality:
    def __init__(self, o, folder):
        self.o, self.folder = o, folder
        self.config = tensors.read_config(o.checkpoint)
        limit = tensors.common_window(self.config)
        self.window = o.window or limit
        if not 2 <= self.window <= limit:
            raise Failure(f"windows of {self.window} tokens: both sides compute the same for 2 to {limit}")
        ids = [int(word) for word in o.tokens.read_text().replace(",", " ").strip(" []\n").split()]
        self.ids = ids[: len(ids) // self.window * self.window]  # whole windows
        if not self.ids:
            raise Failure(f"{o.tokens} has {len(ids)} ids, less than a window of {self.window}")
        self.token_file = folder / "ids"
        self.token_file.write_text(" ".join(map(str, self.ids)))
        # The rows that have a next token in their window, and that token.
        inside = np.arange(len(self.ids)) % self.window != self.window - 1
        self.predicting = np.nonzero(inside)[0]
        self.targets = np.array(self.ids)[self.predicting + 1]

    def ours(self, plan):
        """The plan's logits."""
        out = self.folder / "ours.npy"
        command = [self.o.tools / "moe-run", "score", plan, "--tokens", self.token_file, "--window", self.window,
                   "--logits", out, "--device", "cpu", "--json"]
        models.call(command, "scoring")
        return np.load(out, mmap_mode="r")

    def theirs(self, path):
        out = self.folder / "theirs.npy"
        with Theirs() as llama:
            llama.load(path, self.window, machine.processors(), exact=True)
            llama.ask("score", tokens=self.ids, window=self.window, out=str(out))
        return np.load(out, mmap_mode="r")

    def figures(self, logits):
        """Of one set of logits, beside the float32 ones of `reference`."""
        predicted = log_probabilities(logits[self.predicting])
        loss = -predicted[np.arange(len(self.targets)), self.targets]
        if self.reference is None:
            self.reference = predicted, loss
        exact, exact_loss = self.reference
        divergence = (np.exp(exact) * (exact - predicted)).sum(axis=1)
        worse = loss - exact_loss  # in pairs: the text's own spread cancels
        return {
            "perplexity": math.exp(loss.mean()),
            "ratio": math.exp(worse.mean()),
            "ratio_standard_error": math.exp(worse.mean()) * worse.std(ddof=1) / math.sqrt(len(worse)),
            "mean_divergence": float(divergence.mean()),
            "divergence_standard_error": float(divergence.std(ddof=1) / math.sqrt(len(divergence))),
            "median_divergence": float(np.median(divergence)),
            "top_agreement": float((predicted.argmax(axis=1) == exact.argmax(axis=1)).mean()),
        }

    def agreement(self, ours, theirs):
        """Shows that both sides compute the same model, or fails."""
        far = np.abs(ours - theirs).max(axis=1)
        result = {
            "median": float(np.median(far)), "max": float(far.max()), "tolerance": AGREEMENT,
            "rows": len(far), "rows_beyond_tolerance": int((far > AGREEMENT).sum()),
        }
        say(f"float32 logits of both, {len(far)} rows in windows of {self.window}: largest difference of a row "
            f"{result['median']:.1e} in the median, {result['max']:.1e} at most, {result['rows_beyond_tolerance']} "
            f"rows beyond {AGREEMENT:.0e}")
        if not np.isfinite(far).all() or result["rows_beyond_tolerance"] > MOST_OTHERWISE * len(far):
            raise Failure("the two sides do not compute the same model: no figure would mean anything")
        return result

    def run(self):
        o, parameters, rows = self.o, tensors.parameters(self.config), []
        self.reference = None

        def add(side, name, logits, size):
            rows.append({"side": side, "name": name, "bits_per_weight": 8 * size / parameters, "bytes": size,
                         **self.figures(logits)})

        source = weights.Checkpoint(o.checkpoint)
        exact = self.folder / "F32.gguf"
        convert.write(exact, self.config, source, o.checkpoint.name, float32=True)
        plan = self.compile("f32")
        if plan is None:
            raise Failure("moec does not compile --weights f32, which the comparison starts from")
        ours, theirs = self.ours(plan), self.theirs(exact)
        agreement = self.agreement(ours, theirs)
        add("moec", "f32", ours, self.plan_bytes(plan))
        add("llama.cpp", "F32", theirs, sum(convert.tensor_bytes(exact).values()))
        exact.unlink()

        base = self.folder / "BF16.gguf"
        convert.write(base, self.config, source, o.checkpoint.name)
        for format in o.formats:
            path = self.folder / f"{format}.gguf"
            with Theirs() as llama:
                models.quantize(llama, base, path, format, machine.processors())
            add("llama.cpp", format, self.theirs(path), sum(convert.tensor_bytes(path).values()))
            rows[-1]["types"] = convert.tensor_types(path)
            path.unlink()
        for storage in o.weights:
            plan = self.compile(storage)
            if plan is None:
                say(f"moec has no --weights {storage}: left out")
            else:
                add("moec", storage, self.ours(plan), self.plan_bytes(plan))
        for plan in o.plans:
            add("moec", plan.name, self.ours(plan), self.plan_bytes(plan))
        return {"checkpoint": o.checkpoint.name, "tokens": len(self.ids), "window": self.window,
                "predictions": len(self.targets), "agreement": agreement, "rows": rows}

    def compile(self, storage):
        path = self.folder / f"{storage}.plan"
        return path if models.compile(self.o.tools / "moec", self.o.checkpoint, storage, path) else None

    def plan_bytes(self, plan):
        with Ours(self.o.tools, plan, 8, 1) as program:
            return program.about["weight_bytes"]


def table(result):
    header = ["", "", "bits/weight", "perplexity", "of float32's", "+-", "divergence", "+-", "median", "same first"]
    lines = [
        [r["side"], r["name"], f"{r['bits_per_weight']:.2f}", f"{r['perplexity']:.4f}", f"{r['ratio']:.4f}",
         f"{r['ratio_standard_error']:.4f}", f"{r['mean_divergence']:.2e}",
         f"{r['divergence_standard_error']:.0e}", f"{r['median_divergence']:.2e}", f"{r['top_agreement']:.1%}"]
        for r in sorted(result["rows"], key=lambda r: -r["bits_per_weight"])
    ]
    return report.table(header, lines)


def main(o):
    programs.end_orderly()
    try:
        os.makedirs(o.cache, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="quality-", dir=o.cache) as folder:
            result = Quality(o, pathlib.Path(folder)).run()
    except (Failure, tensors.Unsupported, ValueError) as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(table(result))
    print(f"\n{result['predictions']} predictions of {result['tokens']} tokens, windows of {result['window']}")
    if o.json:
        pathlib.Path(o.json).write_text(json.dumps(result, indent=2) + "\n")
