"""The command line of busy-machine."""

import argparse
import os
import pathlib

from busy.patterns import all_patterns

ROOT = pathlib.Path(__file__).resolve().parents[3]


def parse(arguments):
    patterns = all_patterns()
    parser = argparse.ArgumentParser(
        prog="busy-machine",
        description="Measures how fast a plan decodes while other programs take processors away.")
    add = parser.add_argument
    add("plan", type=pathlib.Path, help="made by moec compile, with a CPU as target")
    add("--patterns", default=",".join(patterns), metavar="NAME,...",
        help="which ways of taking processors; default: %(default)s")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="of the side that is measured, beside one thread; default: all")
    add("--before", type=pathlib.Path, metavar="DIR", help="folder with another moe-run, which takes turns too")
    add("--rounds", type=int, default=6, metavar="N", help="turns of each side; default: 6")
    add("--seconds", type=float, default=2.0, metavar="S", help="of a turn, about; default: 2")
    add("--json", type=pathlib.Path, metavar="FILE", help="write the result there too")
    add("--tools", type=pathlib.Path, default=ROOT / "build/release/bin", help="folder with moe-run")
    o = parser.parse_args(arguments)
    o.patterns = o.patterns.split(",")
    for name in o.patterns:
        if name not in patterns:
            parser.error(f"--patterns {name}: expected some of {', '.join(patterns)}")
    for folder in filter(None, [o.tools, o.before]):
        if not (folder / "moe-run").exists():
            parser.error(f"{folder / 'moe-run'} is not there: build it (cmake --build --preset release) "
                         "or say where it is")
    if not o.plan.exists():
        parser.error(f"{o.plan} is not there")
    if o.threads < 2:
        parser.error(f"--threads {o.threads}: at least 2 are needed, one is measured beside them")
    if o.rounds < 1:
        parser.error(f"--rounds {o.rounds}: at least 1 is needed")
    if not 0.1 <= o.seconds <= 600:
        parser.error(f"--seconds {o.seconds}: expected 0.1 to 600")
    if o.json and not o.json.absolute().parent.is_dir():
        parser.error(f"{o.json}: there is no such folder")
    return o
