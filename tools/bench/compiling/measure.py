"""One run of compile-speed: the disk, a compilation from the disk and one from memory, and interruptions."""

import hashlib
import json
import random
import shutil
import sys

from versus import machine, report

from . import checkpoint, watch


# Of the checkpoint's size, at the most; int4 keeps the embedding and the head as int8.
PLAN_SIZES = [("int4", 0.45), ("int8", 0.6), ("fp8", 0.6), ("bf16", 1.1), ("keep", 1.1)]


class Failure(Exception):
    """What a run must not show."""


def prepare(o):
    """The checkpoint's files of weights, which are written if they are not there."""
    text = checkpoint.text_config(o.config, o.layers)
    model, needed = o.folder / "checkpoint", checkpoint.size(text)
    names = {"config.json", "model.safetensors.index.json"}
    if model.exists():
        files = sorted(model.glob("*.safetensors"))
        headers = 1 << 20
        if not needed <= sum(f.stat().st_size for f in files) <= needed + headers * len(files) or \
                not names <= {f.name for f in model.iterdir()}:
            raise Failure(f"{model} is another checkpoint, or half of one: remove it")
        return text, files
    if o.folder.exists() and any(o.folder.iterdir()):
        raise Failure(f"{o.folder} is not empty, and holds no checkpoint: give another with --folder")
    o.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(o.folder).free
    plan = needed * next((part for name, part in PLAN_SIZES if o.weights.startswith(name)), 2)
    if free < needed + plan:
        raise Failure(f"{o.folder}: the checkpoint has {needed / 1e9:.1f} GB and its plan may take {plan / 1e9:.1f}, "
                      f"and {free / 1e9:.1f} GB are free: take fewer --layers")
    print(f"writing a checkpoint of {needed / 1e9:.1f} GB", flush=True)
    return text, checkpoint.write(model, text)


def hash_of(path):
    digest, buffer = hashlib.sha256(), bytearray(watch.CHUNK)
    with open(path, "rb", buffering=0) as file:
        while length := file.readinto(buffer):
            digest.update(memoryview(buffer)[:length])
    return digest.hexdigest()


def compile_once(command, where, limit):
    """The run, and what it printed."""
    result = watch.run(command)
    printed = result.pop("printed")
    if result["status"]:
        raise Failure(f"moec {where} ended with {result['status']}: {printed}")
    if result["own_bytes"] > limit:
        raise Failure(f"moec {where} took {result['own_bytes'] / 1e9:.2f} GB beside the mapped files, "
                      f"and {limit / 1e9:.2f} were allowed")
    return result, printed


def interruptions(command, plan, complete, count, seconds, seed=2):
    """Stops compilations at random moments; each must leave nothing, not even a temporary name."""
    generator, results = random.Random(seed), []
    out = plan.parent
    while len(results) < count:
        name = list(watch.SIGNALS)[len(results) % len(watch.SIGNALS)]
        after = generator.uniform(0.02, 0.98) * seconds
        status = watch.interrupt(command, watch.SIGNALS[name], after)
        left = sorted(path.name for path in out.iterdir())
        if left == [plan.name] and hash_of(plan) == complete:  # it was faster this time
            plan.unlink()
            seconds *= 0.9
            continue
        results.append({"signal": name, "after_seconds": after, "status": status, "left": left})
        print(f"{name} after {after:.1f} s: ended with {status}, left {', '.join(left) or 'nothing'}", flush=True)
        if left or status not in watch.EXPECTED[name]:
            raise Failure(f"{name} after {after:.1f} s: expected status {watch.EXPECTED[name][0]} and an empty folder")
    return results


def table(result):
    def line(name, run):
        gigabytes = result["checkpoint_bytes"] / 1e9
        return [name, f"{run['seconds']:.1f}", f"{gigabytes / run['seconds']:.2f}",
                report.cell(run.get("processor_seconds")), report.cell(in_gb(run.get("disk_bytes")), "{:.1f}"),
                report.cell(in_gb(run.get("own_bytes")), "{:.3f}"), report.cell(in_gb(run.get("mapped_bytes")), "{:.1f}")]

    header = ["", "s", "GB/s", "processor s", "GB from disk", "own memory GB", "mapped GB"]
    return report.table(header, [line(name, result[key]) for name, key in ROWS])


ROWS = [("reading alone, before", "read_before"), ("compile, from disk", "cold"), ("reading alone, after", "read_after"),
        ("compile again", "again")]


def in_gb(count):
    return None if count is None else count / 1e9


def measure(o):
    text, files = prepare(o)
    model, out = o.folder / "checkpoint", o.folder / "out"
    out.mkdir(exist_ok=True)
    result = {"machine": machine.describe(), "config": o.config.parent.name, "layers": text["num_hidden_layers"], "weights": o.weights,
              "target": o.target, "jobs": o.jobs, "shards": len(files),
              "checkpoint_bytes": sum(f.stat().st_size for f in files)}
    command = [str(o.tools / "moec"), "compile", str(model), "-o", str(out / "model.plan"), "--no-tokenizer",
               "--weights", o.weights, "--target", o.target, "--jobs", str(o.jobs)]

    def read():
        watch.forget(files)
        return {"seconds": watch.read_all(files)}

    result["read_before"] = read()
    watch.forget(files)
    result["cold"], printed = compile_once(command, "from the disk", o.memory * 1e9)
    print(printed, flush=True)
    plan = out / "model.plan"
    result["plan_bytes"], result["plan_sha256"] = plan.stat().st_size, hash_of(plan)
    plan.unlink()
    result["read_after"] = read()
    result["interrupts"] = interruptions(command, plan, result["plan_sha256"], o.interrupts,
                                         result["cold"]["seconds"])
    result["again"], _ = compile_once(command, "once more", o.memory * 1e9)
    if [path.name for path in out.iterdir()] != [plan.name] or hash_of(plan) != result["plan_sha256"]:
        raise Failure("the compilation after the interruptions made another plan than the one before")
    return result


def main(o):
    fresh = not o.folder.exists()
    try:
        result = measure(o)
    except Failure as failure:
        print(f"compile-speed: error: {failure}", file=sys.stderr)
        return 1
    finally:
        if (o.folder / "checkpoint").exists():
            for path in [o.folder / "out"] + ([] if o.keep else [o.folder / "checkpoint"]):
                shutil.rmtree(path, ignore_errors=True)
        if fresh and o.folder.exists() and not any(o.folder.iterdir()):
            o.folder.rmdir()
    print(f"\n{result['checkpoint_bytes'] / 1e9:.2f} GB in {result['shards']} shards to {result['weights']}, "
          f"{result['plan_bytes'] / 1e9:.2f} GB; {result['machine']['processors']} processors, "
          f"{result['machine']['processor']}\n")
    print(table(result))
    print(f"\n{len(result['interrupts'])} interruptions left nothing; the plan after them is the same")
    if o.json:
        o.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0
