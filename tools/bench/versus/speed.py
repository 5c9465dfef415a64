"""A run of versus-llama-cpp: for each model, storage and number of threads both sides in alternation."""

import contextlib
import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

from . import convert, environment, machine, models, options, programs, report, samples, tensors, turns
from .programs import Failure, Ours, Probe, Theirs


def say(text):
    print(text, file=sys.stderr, flush=True)


class Run:
    def __init__(self, o):
        self.o = o
        self.limits = samples.Limits(others=o.others)
        self.rows, self.startup, self.correlations, self.peaks = [], [], [], {}
        self.supported = {b: models.compiles(o.tools / "moec", o.storage[b]) for b in o.bits}
        for bits, known in self.supported.items():
            if not known:
                say(f"moec has no --weights {o.storage[bits]}: only llama.cpp is measured with {bits} bits")

    def measure_peaks(self, probe):
        """Of arithmetic, by type and threads: the best that was seen so far, since disturbance makes it less."""
        for type in ("fp32", "bf16", "int8"):
            for threads in self.o.threads:
                rate, instruction = probe.arithmetic(type, threads)
                best = self.peaks.get((type, threads), {}).get("operations_per_second", 0)
                if rate and rate > best:
                    self.peaks[type, threads] = {"type": type, "threads": threads, "instruction": instruction,
                                                 "operations_per_second": rate}

    def execute(self):
        self.o.cache.mkdir(parents=True, exist_ok=True)
        if self.o.peers.get(environment.IK, True) is None:
            self.o.peers[environment.IK] = environment.ik_llama_bench(self.o.cache)
        with contextlib.ExitStack() as stack:
            if self.o.keep:
                folder = self.o.cache / "models"
                folder.mkdir(exist_ok=True)
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="models-", dir=self.o.cache))
            probe = stack.enter_context(Probe(self.o.tools))
            self.measure_peaks(probe)
            with Theirs() as theirs:
                about = {"llama.cpp": theirs.about, "machine": machine.describe()}
            for name in self.o.models:
                self.model(models.Model(name, folder, self.o.tools / "moec", say), probe)
        turns.add_prefill_fractions(self.rows, self.peaks)
        return {**about, "peaks": list(self.peaks.values()),
                "limits": {"others": self.limits.others, "steal": self.limits.steal, "probes": self.limits.probes},
                "turns_wanted": self.o.turns, "prompt": self.o.prompt, "depth": self.o.depth,
                "rows": self.rows, "startup": self.startup, "correlations": self.correlations}

    def model(self, model, probe):
        say(f"{model.name}: {tensors.parameters(model.config) / 1e6:.0f} million parameters")
        space = 2 * tensors.parameters(model.config) * 3.3  # a source in bfloat16, and both sides' files
        free = shutil.disk_usage(model.folder).free
        if free < space:
            raise Failure(f"{model.name} needs {space / 1e9:.0f} GB in {model.folder}, there are {free / 1e9:.0f} "
                          "GB: choose another place with --cache")
        for bits in sorted(self.o.bits, reverse=True):
            # Both sides' files are to stay in memory, and llama.cpp packs copies of 4-bit weights.
            needed = tensors.parameters(model.config) * {16: 4.2, 8: 2.3, 4: 3.0}[bits]
            if machine.available_memory() < needed:
                say(f"{model.name} with {bits} bits needs {needed / 1e9:.0f} GB of memory, "
                    f"{machine.available_memory() / 1e9:.0f} GB are free: left out")
                continue
            formats = options.THEIRS[bits]
            storage = self.o.storage[bits] if self.supported[bits] else None
            with Theirs() as quantizer:
                ggufs = {f: model.gguf(f, quantizer, machine.processors()) for f in formats}
            plan = model.plan(storage) if storage else None
            for path in [*ggufs.values(), *([plan] if plan else [])]:
                models.warm(path)
            if plan:
                self.same(model, bits, plan, ggufs)
            for threads in self.o.threads:
                self.cell(model, bits, storage, plan, ggufs, threads, probe)
            self.start(model, bits, storage, plan, ggufs)
            if not self.o.keep:
                for path in [*ggufs.values(), *([plan] if plan else [])]:
                    if path.name != f"{model.name}-BF16.gguf":  # the others are made from it
                        path.unlink()
        if not self.o.keep:
            model.bfloat16().unlink()

    def same(self, model, bits, plan, ggufs):
        """Both sides compute the same model, up to what its storage rounds: else no figure means anything."""
        least = {16: 0.99, 8: 0.9, 4: 0.5}[bits]  # two models that have nothing in common: 0
        for format, path in ggufs.items():
            found = models.correlation(self.o.tools, plan, path, model.config["vocab_size"], max(self.o.threads))
            self.correlations.append({"model": model.name, "bits": bits, "format": format, "correlation": found})
            say(f"  {plan.name} and {path.name}: correlation of logits {found:.4f}")
            if not found >= least:
                raise Failure(f"{plan.name} and {path.name} do not compute the same model: their logits' correlation "
                              f"is {found:.4f}, expected at least {least}")

    def cell(self, model, bits, storage, plan, ggufs, threads, probe):
        pings = [probe.ping_pong()]
        say(f"{model.name}, {bits} bits, {threads} threads; one way from core to core "
            + (f"{pings[0]:.0f} ns" if pings[0] else "unknown"))
        sides, active = {}, {}
        with contextlib.ExitStack() as stack:
            if plan:
                ours = stack.enter_context(Ours(self.o.tools, plan, self.o.prompt, threads))
                sides["ours"], active["ours"] = ours, ours.active_bytes
            for format, path in ggufs.items():
                theirs = stack.enter_context(Theirs())
                theirs.load(path, self.o.prompt, threads)
                sides[format] = theirs
                active[format] = tensors.active_bytes(model.config, convert.tensor_bytes(path))
                for name, bench in self.o.peers.items():
                    sides[f"{format}, {name}"] = programs.Peer(bench, path, threads)
                    active[f"{format}, {name}"] = active[format]
            operations = tensors.prefill_operations(model.config, self.o.prompt)
            for phase in self.o.phases:
                wanted = self.o.turns if phase == "decode" else max(3, self.o.turns // 4)
                plan_of_turns = turns.Plan(wanted, 3 * wanted, self.o.prompt, self.o.depth)
                cell = turns.Cell(sides, probe, threads, plan_of_turns, self.limits, say)
                taken, kept, dropped = cell.run(phase)
                pings.append(probe.ping_pong())
                self.measure_peaks(probe)
                for format in [side for side in sides if side != "ours"]:
                    base = {"model": model.name, "bits": bits, "phase": phase, "threads": threads,
                            "weights": storage, "format": format, "one_way_nanoseconds": pings[-2:],
                            "ours_active_bytes": active.get("ours"), "theirs_active_bytes": active[format],
                            "operations_per_token": operations}
                    self.rows.append(turns.row(base, taken, kept, dropped, "ours", format, self.limits))

    def start(self, model, bits, storage, plan, ggufs):
        """From exec to the first token, and the most memory, on all processors."""
        threads, repeat = max(self.o.threads), 3 if self.o.quick else 5
        ours = [self.first_token(lambda: Ours(self.o.tools, plan, self.o.prompt, threads)) for _ in range(repeat)]\
            if plan else []
        for format, path in ggufs.items():

            def load(path=path):
                program = Theirs()
                program.load(path, self.o.prompt, threads)
                return program

            theirs = [self.first_token(load) for _ in range(repeat)]

            def best(results, key):
                return statistics.median(r[key] for r in results) if results else None

            self.startup.append({
                "model": model.name, "bits": bits, "threads": threads, "weights": storage, "format": format,
                "ours_first_token_seconds": best(ours, "seconds"),
                "theirs_first_token_seconds": best(theirs, "seconds"),
                "ours_peak_bytes": best(ours, "peak"), "theirs_peak_bytes": best(theirs, "peak"),
                "ours_weight_bytes": best(ours, "weights"),
                "theirs_weight_bytes": sum(convert.tensor_bytes(path).values()),
            })

    def first_token(self, make):
        """Then a whole prompt, so that all of the memory that a user sees is in use."""
        with make() as program:
            program.decode(1)
            seconds = time.perf_counter() - program.started
            program.prefill(self.o.prompt)
            weights = getattr(program, "about", {}).get("weight_bytes")
            return {"seconds": seconds, "peak": program.peak_bytes(), "weights": weights}


def main(o):
    programs.end_orderly()
    try:
        result = Run(o).execute()
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    if o.json:
        pathlib.Path(o.json).write_text(json.dumps(result, indent=2) + "\n")
    print(report.speed_table(result["rows"]))
    print()
    print(report.startup_table(result["startup"]))
    report.plot(o.plot, result["rows"], f"{result['machine']['processor']}, moec and llama.cpp")
    print(f"\npicture: {o.plot}" + (f"; JSON: {o.json}" if o.json else ""))
