"""The command lines of versus-llama-cpp and quality. Standard library only: errors need no installation."""

import argparse
import os
import pathlib

from . import environment, machine

ROOT = pathlib.Path(__file__).resolve().parents[3]

# Which of our storages of weights meets which of llama.cpp's formats, by bits.
OURS = {16: "bf16", 8: "int8", 4: "int4"}
THEIRS = {16: ["BF16"], 8: ["Q8_0"], 4: ["Q4_0", "Q4_K_M"]}


def add_places(parser):
    parser.add_argument("--json", metavar="FILE", help="write the result there too")
    parser.add_argument("--tools", type=pathlib.Path, default=ROOT / "build/release/bin",
                        help="folder with moec, moe-run and bench-probe")
    parser.add_argument("--cache", type=pathlib.Path, default=environment.default_cache(),
                        help="folder that llama.cpp is installed in, and that has the models meanwhile")


def check_places(parser, o, *tools):
    for tool in tools:
        if not (o.tools / tool).exists():
            parser.error(f"{o.tools / tool} is not there: build it (cmake --build --preset release) "
                         "or say where it is with --tools")
    for path in (o.json, getattr(o, "plot", None)):
        if path and not pathlib.Path(path).absolute().parent.is_dir():
            parser.error(f"{path}: there is no such folder")


def speed(arguments):
    parser = argparse.ArgumentParser(
        prog="versus-llama-cpp", description="Measures moec's plans against llama.cpp on this machine's processor.")
    add = parser.add_argument
    add("--models", nargs="+", choices=["mini", "mid"], help="default: both")
    add("--bits", nargs="+", type=int, choices=list(OURS), default=list(OURS))
    add("--ours", nargs="+", default=[], metavar="BITS=STORAGE",
        help="what moec compile --weights gets for so many bits, for example 4=int4")
    add("--peer", action="append", default=[], metavar="[NAME=]PATH",
        help="measure this build of llama-bench too; ik_llama.cpp, without a path, is built from its public package")
    add("--threads", nargs="+", type=int, metavar="N", help="default: 1, and all processors")
    add("--phases", nargs="+", choices=["decode", "prefill"], default=["decode", "prefill"])
    add("--turns", type=int, metavar="N", help="decode turns of each side that must count; default: 40")
    add("--prompt", type=int, default=512, metavar="N", help="tokens of a prompt; default: 512")
    add("--depth", type=int, default=0, metavar="N", help="tokens before those that are decoded; default: 0")
    add("--others", type=float, default=0.05, metavar="PROCESSORS",
        help="drop turns in which other programs kept more than this busy; default: 0.05")
    add("--quick", action="store_true", help="mid alone, on all processors, with few turns")
    add("--plot", metavar="FILE", default="versus-llama-cpp.png", help="where the picture goes")
    add("--keep", action="store_true", help="leave the models in the cache for the next run")
    add_places(parser)
    o = parser.parse_args(arguments)

    everything = machine.processors()
    o.models = o.models or (["mid"] if o.quick else ["mini", "mid"])
    o.threads = o.threads or ([everything] if o.quick else sorted({1, everything}))
    o.turns = (10 if o.quick else 40) if o.turns is None else o.turns
    o.storage = dict(OURS)
    for choice in o.ours:
        bits, _, storage = choice.partition("=")
        if not storage or bits not in map(str, OURS):
            parser.error(f"--ours {choice}: expected BITS=STORAGE with 16, 8 or 4 bits")
        o.storage[int(bits)] = storage
    o.peers = {}
    for choice in o.peer:
        name, _, path = choice.rpartition("=")
        if path == environment.IK and not name:
            o.peers[environment.IK] = None  # to be built
            continue
        path = pathlib.Path(path)
        if not path.is_file() or not os.access(path, os.X_OK):
            parser.error(f"--peer {choice}: expected the path of llama-bench, or {environment.IK}")
        name = name or path.absolute().parent.name
        if name in o.peers or name == "ours":
            parser.error(f"--peer {choice}: another side has the name {name}; give one as NAME=PATH")
        o.peers[name] = path
    if any(not 1 <= n <= everything for n in o.threads):
        parser.error(f"--threads: this process may use 1 to {everything}")
    if o.turns < 1:
        parser.error(f"--turns {o.turns}: at least 1 must count")
    if not 8 <= o.prompt <= 8000:
        parser.error(f"--prompt {o.prompt}: expected 8 to 8000 tokens")
    if not 0 <= o.depth <= o.prompt - 8:
        parser.error(f"--depth {o.depth}: expected 0 to {o.prompt - 8}, less than --prompt by what is decoded")
    check_places(parser, o, "moec", "moe-run", "bench-probe")
    return o


def quality(arguments):
    parser = argparse.ArgumentParser(
        prog="quality", description="Perplexity and bits of a weight: moec's plans and llama.cpp's formats, on cria.")
    add = parser.add_argument
    add("plans", nargs="*", type=pathlib.Path, metavar="PLAN", help="plans of the same checkpoint to score too")
    add("--weights", nargs="*", default=["bf16", *[OURS[b] for b in (8, 4)]], metavar="STORAGE",
        help="storages to compile and score; those that moec does not have are left out")
    add("--formats", nargs="*", default=["Q8_0", "Q4_0", "Q4_K_M"], metavar="FORMAT", help="of llama.cpp")
    add("--tokens", type=pathlib.Path, default=ROOT / "test/golden/cria/heldout.txt", help="file with token ids")
    add("--checkpoint", type=pathlib.Path, default=ROOT / "models/cria", help="default: cria")
    add("--window", type=int, metavar="N", help="tokens of a sequence; default: the most that both sides agree on")
    add_places(parser)
    o = parser.parse_args(arguments)
    for path in (o.tokens, o.checkpoint / "config.json", *o.plans):
        if not path.exists():
            parser.error(f"{path} is not there")
    check_places(parser, o, "moec", "moe-run")
    return o
