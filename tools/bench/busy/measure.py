"""Takes the turns and prints the table."""

import json
import random
import statistics
import sys

from busy import patterns
from versus.machine import describe
from versus.programs import Failure, Ours

CONTEXT = 1024


class Side:
    """A moe-run that decodes in turns."""

    def __init__(self, name, tools, plan, threads):
        self.name = name
        self.program = Ours(tools, plan, CONTEXT, threads)
        self.count = 16

    def pid(self):
        return self.program.process.pid

    def tune(self, seconds):
        """How many tokens take so long, undisturbed."""
        for _ in range(3):
            rate = self.turn(min(seconds, 0.5))
            self.count = max(4, min(CONTEXT - 8, int(rate * min(seconds, 0.5))))

    def turn(self, seconds):
        """Tokens a second, over at least so long."""
        tokens, took = 0, 0.0
        while took < seconds:
            took += self.program.decode(self.count)["seconds"]
            tokens += self.count
        return tokens / took


def measure(o, names):
    sides = [Side("one thread", o.tools, o.plan, 1), Side(f"{o.threads} threads", o.tools, o.plan, o.threads)]
    if o.before:
        sides.append(Side(f"{o.threads} threads before", o.before, o.plan, o.threads))
    shuffled = random.Random(1)
    rows = []
    try:
        for side in sides:
            side.tune(o.seconds)
        for name in names:
            pattern = patterns.all_patterns()[name]
            rates = {side.name: [] for side in sides}
            try:
                with pattern.within([side.pid() for side in sides]):
                    for _ in range(o.rounds):
                        for side in shuffled.sample(sides, len(sides)):
                            rates[side.name].append(side.turn(o.seconds))
            except patterns.Impossible as reason:
                rows.append({"pattern": pattern.name, "skipped": str(reason)})
                print(f"{pattern.name}: skipped: {reason}", file=sys.stderr)
                continue
            rows.append({"pattern": pattern.name, "rates": rates})
            print(f"{pattern.name}: done", file=sys.stderr)
    finally:
        for side in sides:
            side.program.close()
    return rows


def add_ratios(rows, threads):
    """Medians, and ratios within a round: to what was not disturbed, and to the better of the other sides."""
    ours = f"{threads} threads"
    undisturbed = next((statistics.median(row["rates"][ours]) for row in rows
                        if row["pattern"] == "quiet" and "rates" in row), None)
    for row in rows:
        if "rates" not in row:
            continue
        row["medians"] = {side: statistics.median(rates) for side, rates in row["rates"].items()}
        others = [rates for side, rates in row["rates"].items() if side != ours]
        row["to_better"] = statistics.median(
            rate / max(beside) for rate, *beside in zip(row["rates"][ours], *others))
        row["to_undisturbed"] = row["medians"][ours] / undisturbed if undisturbed else None


def table(rows):
    sides = next((list(row["medians"]) for row in rows if "medians" in row), [])
    head = ["tokens/s", *sides, "of the better other", "of undisturbed"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if "medians" not in row:
            lines.append(f"| {row['pattern']} | skipped: {row['skipped']} |" + " |" * (len(head) - 2))
            continue
        cells = [f"{row['medians'][side]:.4g}" for side in sides]
        undisturbed = row["to_undisturbed"]
        cells += [f"{row['to_better']:.2f}", f"{undisturbed:.2f}" if undisturbed else ""]
        lines.append("| " + " | ".join([row["pattern"], *cells]) + " |")
    return "\n".join(lines)


def main(o):
    patterns.end_orderly()
    machine = describe()
    try:
        rows = measure(o, o.patterns)
    except Failure as failure:
        print(f"busy-machine: error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    add_ratios(rows, o.threads)
    print(f"{machine['processor']}, {machine['processors']} processors; medians of {o.rounds} turns")
    print(table(rows))
    if o.json:
        o.json.write_text(json.dumps({"machine": machine, "plan": o.plan.name, "rows": rows}, indent=1) + "\n")
    return 0
