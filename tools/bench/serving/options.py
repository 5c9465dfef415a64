"""The command line of serve."""

import argparse
import pathlib

from serving.layouts import LAYOUTS

ROOT = pathlib.Path(__file__).resolve().parents[3]
FORMATS = ("BF16", "Q8_0", "Q4_0", "Q4_K_M")
RUNS = {
    "streams": "streams that decode together, beside the raw batch of moe-run bench --sequences",
    "first": "the first token when nobody else asks, beside moe-run",
    "idle": "what open streams cost that wait for their turn",
    "mixed": "time between tokens while prompts come",
    "prefix": "conversations with a common beginning",
    "constrained": "answers held to a JSON schema, beside the same load without",
    "overload": "more requests than can be served",
    "layouts": "where threads run: " + "; ".join(f"{name}, {what}" for name, what in LAYOUTS.items()),
    "churn": "requests of which many are cut",
}


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="serve", description="Measures moe-serve under load, alone or beside llama-server.",
        epilog="runs: " + "; ".join(f"{name}: {what}" for name, what in RUNS.items()))
    add = parser.add_argument
    add("plan", type=pathlib.Path, help="made by moec compile; or mini or mid, of which one is made, and kept in the "
        "folder of --cache, with random weights")
    add("--weights", default="int4", help="storage of those weights; default: int4")
    add("--runs", default=",".join(RUNS), metavar="NAME,...", help="default: %(default)s")
    add("--streams", default="1,4,8,16,32", metavar="N,...", help="numbers of streams; default: %(default)s")
    add("--prompt", type=int, default=128, metavar="N", help="tokens of their prompts; default: 128")
    add("--generate", type=int, default=128, metavar="N", help="tokens of their answers; default: 128")
    add("--rounds", type=int, default=3, metavar="N", help="of `streams`, medians are told; default: 3")
    add("--requests", type=int, default=2000, metavar="N", help="of `churn`; default: 2000")
    add("--seconds", type=int, default=25, metavar="S", help="of `mixed` and `overload`; default: 25")
    add("--option", action="append", default=[], metavar="WORD",
        help="a word more for moe-serve's command line; may be repeated")
    add("--system", type=int, default=1000, metavar="N", help="common tokens of `prefix`; default: 1000")
    add("--users", type=int, default=8, metavar="N", help="conversations of `prefix`; default: 8")
    add("--gguf", metavar="FILE",
        help="the same model for llama-server, which then takes turns in `streams`, `first` and `mixed`; with mini or "
        "mid a format such as Q4_0, which is made")
    add("--llama-server", type=pathlib.Path, metavar="PATH", help="default: built from its public package")
    add("--cache", type=pathlib.Path, help="folder that llama-server is built in; default: ~/.cache/moec/llama-cpp")
    add("--json", type=pathlib.Path, metavar="FILE", help="write the result there too")
    add("--tools", type=pathlib.Path, default=ROOT / "build/release/bin", help="folder with moe-serve and moe-run")
    o = parser.parse_args(arguments)
    o.runs = o.runs.split(",")
    for name in o.runs:
        if name not in RUNS:
            parser.error(f"--runs {name}: expected some of {', '.join(RUNS)}")
    try:
        o.streams = [int(count) for count in o.streams.split(",")]
    except ValueError:
        parser.error(f"--streams {o.streams}: expected numbers with commas between them")
    for name in ("prompt", "generate", "rounds", "requests", "seconds", "system", "users"):
        if getattr(o, name) < 1:
            parser.error(f"--{name} {getattr(o, name)}: at least 1 is needed")
    if not all(1 <= count <= 4096 for count in o.streams):
        parser.error(f"--streams {o.streams}: expected 1 to 4096")
    for program in ("moe-serve", "moe-run"):
        if not (o.tools / program).exists():
            parser.error(f"{o.tools / program} is not there: build it with -DMOE_BUILD_SERVER=ON or say where it is")
    o.model = str(o.plan) if str(o.plan) in ("mini", "mid") else None
    o.format = o.gguf if o.model else None
    if o.model:
        if o.format and o.format not in FORMATS:
            parser.error(f"--gguf {o.format}: expected one of {', '.join(FORMATS)} for a model that is made")
        if not (o.tools / "moec").exists():
            parser.error(f"{o.tools / 'moec'} is not there: it makes the plan")
        o.gguf = None
    elif o.gguf:
        o.gguf = pathlib.Path(o.gguf)
    for file in filter(None, [None if o.model else o.plan, o.gguf, o.llama_server]):
        if not file.exists():
            parser.error(f"{file} is not there")
    if o.json and not o.json.absolute().parent.is_dir():
        parser.error(f"{o.json}: there is no such folder")
    return o
