"""Takes the runs and prints what they give."""

import json
import os
import pathlib
import statistics
import sys

from serving import constrained, layouts, runs
from serving.server import Failure, Server
from versus import environment
from versus.machine import describe
from versus.programs import Failure as ProgramFailure, end_orderly


def say(text):
    print(text, file=sys.stderr, flush=True)


def moe_serve(o, *more):
    return Server("moe-serve", lambda port: [o.tools / "moe-serve", o.plan, "--port", port, *o.option, *more])


def llama_server(o, streams):
    """Its defaults, but for slots and a context for each of them, as many as the run has streams."""
    program = o.llama_server or environment.llama_server(o.cache or environment.default_cache())
    context = streams * 2048
    return Server("llama-server", lambda port: [program, "-m", o.gguf, "--port", port, "-np", streams, "-c", context,
                                                "-fa", "on", "--no-webui"])


def median_of(rounds):
    """Of each figure the median over the rounds."""
    merged = {}
    for key, value in rounds[0].items():
        values = [figures[key] for figures in rounds if isinstance(figures[key], (int, float))]
        merged[key] = statistics.median(values) if len(values) == len(rounds) else value
    return merged


def interval_of(rate, streams, tokens):
    """Seconds between two looks at a server: a dozen while all decode, of which each takes a little of that time."""
    return min(0.25, streams * tokens / rate / 12)


def take_streams(o):
    """Runs A and B, for each number of streams in turns, so that what the machine does meanwhile falls on all."""
    rows = []
    for count in o.streams:
        raw, ours, theirs = [], [], []
        for round in range(o.rounds):
            raw.append(runs.raw_batch(o.tools / "moe-run", o.plan, [count], o.prompt, o.generate, [])[count])
            # Prompts first, so that all decode soon.
            with moe_serve(o, "--itl-stretch", "0") as server:
                ours.append(runs.streams(server, count, runs.Prompts(round), o.prompt, o.generate,
                                         interval=interval_of(raw[-1], count, o.generate)))
            if o.gguf:
                with llama_server(o, count) as server:
                    theirs.append(runs.streams(server, count, runs.Prompts(round), o.prompt, o.generate, interval=None))
        row = {"streams": count, "raw": statistics.median(raw), "ours": median_of(ours),
               "of_raw": statistics.median(b["steady"] / a for a, b in zip(raw, ours)), "rounds": [raw, ours, theirs]}
        if theirs:
            row["theirs"] = median_of(theirs)
            row["ratio"] = statistics.median(a["whole"] / b["whole"] for a, b in zip(ours, theirs))
            row["decode_ratio"] = statistics.median(b["between_p50"] / a["between_p50"] for a, b in zip(ours, theirs))
            row["first_ratio"] = statistics.median(b["first_p50"] / a["first_p50"] for a, b in zip(ours, theirs))
        rows.append(row)
        say(f"{count} streams: {row['ours']['steady']:.1f} tokens/s, {row['of_raw']:.3f} of the raw batch"
            + (f", {row['ratio']:.2f} times llama-server" if theirs else ""))
    return rows


def take_first(o):
    result = {}
    for length in (16, 512):
        raw = runs.raw_prefill(o.tools / "moe-run", o.plan, length)
        requests = 200 if raw < 0.02 else 20 if raw < 0.5 else 10
        with moe_serve(o) as server:
            ours = runs.first_token(server, runs.Prompts(1), length, requests)
        result[length] = {"moe_run": raw, "ours": ours["first_p50"], "added": ours["first_p50"] - raw}
        if o.gguf:
            with llama_server(o, 1) as server:
                theirs = runs.first_token(server, runs.Prompts(1), length, min(requests, 10))
            result[length] |= {"theirs": theirs["first_p50"], "ratio": theirs["first_p50"] / ours["first_p50"]}
    return result


def take_mixed(o):
    with moe_serve(o) as server:
        result = {"ours": runs.mixed(server, runs.Prompts(1), o.seconds)}
    if o.gguf:
        with llama_server(o, 10) as server:
            result["theirs"] = runs.mixed(server, runs.Prompts(1), o.seconds)
    return result


def take_overload(o):
    with moe_serve(o, "--max-connections", "16384", "--max-per-address", "16384") as server:
        capacity = runs.capacity(server, runs.Prompts(3))
        return runs.overload(server, runs.Prompts(1), capacity, o.seconds)


def take_constrained(o, streams=8):
    """The same load without and with a schema, in turns."""
    plain, held = [], []
    fields = constrained.held_to(constrained.schema(40))
    rate = runs.raw_batch(o.tools / "moe-run", o.plan, [streams], o.prompt, o.generate, [])[streams]
    for round in range(o.rounds):
        for kind, rates in ((None, plain), (fields, held)):
            with moe_serve(o, "--itl-stretch", "0") as server:
                rates.append(runs.streams(server, streams, runs.Prompts(round), o.prompt, o.generate, kind,
                                          interval_of(rate, streams, o.generate))["steady"])
    with moe_serve(o) as server:
        return {"streams": streams, "tokens_per_second": statistics.median(plain),
                "with_schema": statistics.median(held),
                "ratio": statistics.median(b / a for a, b in zip(plain, held)),
                "schema": constrained.compiling(server, runs.Prompts(1)),
                "answers": constrained.answers(server, runs.Prompts(2))}


def take_layouts(o):
    """Each number of streams with the threads placed in each way, in turns."""
    processors = sorted(os.sched_getaffinity(0))
    result = []
    for count in o.streams:
        rate = runs.raw_batch(o.tools / "moe-run", o.plan, [count], o.prompt, o.generate, [])[count]
        rounds = {name: [] for name in layouts.LAYOUTS}
        for round in range(o.rounds):
            for name, figures in rounds.items():
                with moe_serve(o, "--itl-stretch", "0", "--threads", layouts.workers(name, processors)) as server:
                    figures.append(runs.streams(
                        server, count, runs.Prompts(round), o.prompt, o.generate,
                        interval=interval_of(rate, count, o.generate),
                        warmed=lambda server, name=name: layouts.arrange(name, server, processors)))
        medians = {name: median_of(figures) for name, figures in rounds.items()}
        result.append({"streams": count, "raw": rate, **medians})
    return result


def with_server(run, *more):
    def take(o):
        with moe_serve(o, *more) as server:
            return run(server, runs.Prompts(1))
    return take


TAKES = {
    "streams": take_streams,
    "first": take_first,
    "idle": with_server(runs.idle_streams, "--max-sequences", "1", "--max-waiting", "1000", "--max-per-address", "2000"),
    "mixed": take_mixed,
    "prefix": lambda o: with_server(lambda server, prompts: runs.prefix(server, prompts, o.system, o.users))(o),
    "constrained": take_constrained,
    "overload": take_overload,
    "layouts": take_layouts,
    "churn": lambda o: with_server(lambda server, prompts: runs.churn(server, prompts, o.requests))(o),
}


def streams_table(rows):
    theirs = "theirs" in rows[0]
    head = ["streams", "raw batch", "moe-serve, decoding", "of raw", "first text, ms", "between, p50 and p99, ms"]
    head += ["with prompts", "llama-server", "ratio", "its first text, ms", "its between, p50"] if theirs else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        ours = row["ours"]
        cells = [row["streams"], f"{row['raw']:.4g}", f"{ours['steady']:.4g}", f"{row['of_raw']:.3f}",
                 f"{ours['first_p50'] * 1e3:.3g}", f"{ours['between_p50'] * 1e3:.3g}, {ours['between_p99'] * 1e3:.3g}"]
        if theirs:
            cells += [f"{ours['whole']:.4g}", f"{row['theirs']['whole']:.4g}", f"{row['ratio']:.2f}",
                      f"{row['theirs']['first_p50'] * 1e3:.3g}", f"{row['theirs']['between_p50'] * 1e3:.3g}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def make_files(o):
    """The plan and the GGUF file of one of the models that are made up; they stay for the next run."""
    if not o.model:
        return
    from versus import models  # needs the environment's packages
    from versus.machine import processors
    from versus.programs import Theirs

    folder = (o.cache or environment.default_cache()) / "models"
    folder.mkdir(parents=True, exist_ok=True)
    model = models.Model(o.model, folder, o.tools / "moec", say)
    o.plan = model.plan(o.weights)
    if o.format:
        with Theirs() as quantizer:
            o.gguf = model.gguf(o.format, quantizer, processors())
        if o.format != "BF16":  # the larger one that the other was made from
            (folder / f"{o.model}-BF16.gguf").unlink(missing_ok=True)
    for path in filter(None, (o.plan, o.gguf)):
        models.warm(path)


def main(o):
    end_orderly()
    try:
        make_files(o)
    except ProgramFailure as failure:
        print(f"serve: error: {failure}", file=sys.stderr)
        return 1
    result = {"machine": describe(), "plan": pathlib.Path(o.plan).name, "options": o.option}
    try:
        for name in o.runs:
            say(f"{name} ...")
            result[name] = TAKES[name](o)
    except Failure as failure:
        print(f"serve: error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if o.json:
            o.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['machine']['processor']}, {result['machine']['processors']} processors; {result['plan']}")
    for name in o.runs:
        print(f"\n{name}")
        print(streams_table(result[name]) if name == "streams" else json.dumps(result[name], indent=1))
    return 0
