"""Both sides in alternation: turns, the probes between them, and the rows that come out."""

import dataclasses
import random
import time

from . import machine, samples

# How long a decode turn should take, and its tokens at least: short beside the seconds in which the
# memory's speed changes, long beside the probes.
TURN_SECONDS, LEAST_TOKENS = 0.25, 4


@dataclasses.dataclass
class Plan:
    """How much is measured."""

    turns: int  # samples wanted of each side
    most: int  # rounds at most
    prompt: int
    depth: int


class Cell:
    """All sides that one plan is compared with, on so many threads. sides: name to program."""

    def __init__(self, sides, probe, threads, plan, limits, say):
        self.sides, self.probe, self.threads, self.plan = sides, probe, threads, plan
        self.limits, self.say = dataclasses.replace(limits, threads=threads), say
        self.order = random.Random(1)

    def run(self, phase):
        """Of `phase`, "decode" or "prefill": all samples, those that count, and for what reasons others do not."""
        count = self.plan.prompt if phase == "prefill" else self.decode_tokens()
        if phase == "prefill":
            for program in self.sides.values():
                program.prefill(count)  # the first touches memory
        taken, kept, dropped = [], [], {}
        for number in range(self.plan.most):
            names = list(self.sides)
            self.order.shuffle(names)
            read = self.read(phase)
            for name in names:
                sample = self.turn(phase, name, number, count)
                sample.before, read = read, self.read(phase)
                sample.after = read
                taken.append(sample)
            kept, dropped = samples.split(taken, self.limits)
            if all(sum(s.side == name for s in kept) >= self.plan.turns for name in names):
                break
        self.say(f"  {phase}, {count} tokens a turn: {len(kept)} of {len(taken)} turns count"
                 + "".join(f", {n} dropped for {why}" for why, n in sorted(dropped.items())))
        return taken, kept, dropped

    def decode_tokens(self):
        def undisturbed(program):
            return min(program.decode(LEAST_TOKENS, self.plan.depth)["seconds"] for _ in range(3))

        slowest = max(undisturbed(program) for program in self.sides.values())
        count = round(LEAST_TOKENS * TURN_SECONDS / slowest)
        return max(LEAST_TOKENS, min(count, self.plan.prompt - self.plan.depth))

    def read(self, phase):
        """Decoding is measured against memory, which prefill hardly waits for."""
        return self.probe.read(self.threads) if phase == "decode" else 0.0

    def turn(self, phase, name, number, count):
        program = self.sides[name]
        watch = machine.Watch()
        answer = program.prefill(count) if phase == "prefill" else program.decode(count, self.plan.depth)
        others, steal = watch.stop(answer["processor_seconds"])
        time.sleep(program.settle)
        return samples.Sample(name, number, count / answer["seconds"], answer["seconds"], others=others, steal=steal)


def row(base, taken, kept, dropped, ours, theirs, limits):
    """One row of the result. Sides without a sample that counts have null.

    The limit of decode is the memory's read bandwidth beside each turn, over the bytes that a token reads.
    """
    result = {**base, "ours": None, "theirs": None, "ratio": None, "ours_fraction": None, "theirs_fraction": None}
    for key, side in (("ours", ours), ("theirs", theirs)):
        mine = [s for s in kept if s.side == side]
        result[f"{key}_tokens_per_second"] = rates = samples.spread([s.rate for s in mine])
        result[key] = rates and rates["median"]
        if base["phase"] == "decode":
            shares = samples.spread([s.rate * base[f"{key}_active_bytes"] / s.read for s in mine])
            result[f"{key}_fractions"] = shares
            result[f"{key}_fraction"] = shares and shares["median"]
    result["ratios"] = ratios = samples.spread(samples.ratios(kept, ours, theirs, limits))
    result["ratio"] = ratios and ratios["median"]
    result["read_bytes_per_second"] = samples.spread([s.read for s in kept if s.side in (ours, theirs) and s.read])
    both = [s for s in taken if s.side in (ours, theirs)]
    result["others"] = samples.spread([s.others for s in both])
    result["steal"] = samples.spread([s.steal for s in both])
    result["dropped"] = dropped
    return result


def add_prefill_fractions(rows, peaks):
    """The limit of prefill is the peak of the arithmetic that weights of so many bits allow.

    peaks: (type, threads) to what the probe said. A processor without bf16 multiplies in fp32.
    """
    for row in rows:
        if row["phase"] != "prefill":
            continue
        wanted = ["bf16", "fp32"] if row["bits"] == 16 else ["int8"]
        peak = next((peaks[type, row["threads"]] for type in wanted if (type, row["threads"]) in peaks), None)
        row["peak"] = peak
        for key in ("ours", "theirs"):
            if peak and row[key]:
                row[f"{key}_fraction"] = row[key] * row["operations_per_token"] / peak["operations_per_second"]
