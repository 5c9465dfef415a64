"""The command line of compile-speed."""

import argparse
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="compile-speed",
        description="Writes a checkpoint of random weights, measures the disk and moec compile on it, and interrupts it.")
    add = parser.add_argument
    add("--config", type=pathlib.Path, default=ROOT / "models/configs/scout/config.json",
        help="shapes of the model; default: Scout's")
    add("--layers", type=int, default=4, metavar="N", help="of the model; default: 4, with Scout's shapes 22 GB")
    add("--weights", default="int4", help="what moec compile --weights gets; default: int4")
    add("--target", default="cpu:native", help="what moec compile --target gets; default: cpu:native")
    add("--jobs", type=int, default=0, metavar="N", help="what moec compile --jobs gets; default: 0, all processors")
    add("--interrupts", type=int, default=6, metavar="N", help="how often it is interrupted; default: 6")
    add("--memory", type=float, default=3.0, metavar="GB",
        help="the most memory beside the mapped files, else the run fails; default: 3")
    add("--folder", type=pathlib.Path, default=pathlib.Path("compile-speed"), metavar="DIR",
        help="for the checkpoint and the plans, on the disk to measure; it must not be there yet, unless --keep left it")
    add("--keep", action="store_true", help="leave the checkpoint in the folder for the next run")
    add("--json", type=pathlib.Path, metavar="FILE", help="write the result there too")
    add("--tools", type=pathlib.Path, default=ROOT / "build/release/bin", help="folder with moec")
    o = parser.parse_args(arguments)
    if not (o.tools / "moec").exists():
        parser.error(f"{o.tools / 'moec'} is not there: build it (cmake --build --preset release) "
                     "or say where it is with --tools")
    if not o.config.exists():
        parser.error(f"{o.config} is not there")
    if o.layers < 1:
        parser.error(f"--layers {o.layers}: at least 1 is needed")
    if o.interrupts < 0:
        parser.error(f"--interrupts {o.interrupts}: expected 0 or more")
    if o.json and not o.json.absolute().parent.is_dir():
        parser.error(f"{o.json}: there is no such folder")
    return o
