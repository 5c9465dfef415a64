"""What counts of a run's samples, and what they say together. Standard library only."""

import dataclasses
import math
import os
import statistics


@dataclasses.dataclass
class Sample:
    """One turn of one side."""

    side: str
    round: int
    rate: float  # tokens per second
    seconds: float
    before: float = 0.0  # the probe's bytes per second, before and after; 0 where there was none
    after: float = 0.0
    others: float = 0.0  # processors that others kept busy meanwhile
    steal: float = 0.0  # processors that the host took

    @property
    def read(self):
        return (self.before + self.after) / 2


@dataclasses.dataclass
class Limits:
    others: float = 0.05
    steal: float = 0.05
    probes: float = 0.2  # by which a turn's two probes may differ
    threads: int = 1  # of a turn
    tick: float = 1 / os.sysconf("SC_CLK_TCK")  # seconds, the unit of /proc/stat

    def fault(self, sample):
        """Why a sample does not count, or None."""
        # The kernel counts whole ticks of each processor: errors of one at both ends, in either direction.
        doubt = 2 * self.tick * math.sqrt(self.threads) / sample.seconds
        if sample.others > self.others + doubt:
            return "others"
        if sample.steal > self.steal + doubt:
            return "steal"
        if differ(sample.before, sample.after, self.probes):
            return "probes"
        return None


def differ(a, b, by):
    """True if the larger is more than `by` above the smaller."""
    return max(a, b) > (1 + by) * min(a, b)


def split(samples, limits):
    """The samples that count, and how many were dropped for each reason."""
    kept, dropped = [], {}
    for sample in samples:
        fault = limits.fault(sample)
        if fault:
            dropped[fault] = dropped.get(fault, 0) + 1
        else:
            kept.append(sample)
    return kept, dropped


def spread(values):
    """Median, least and most, or None without values."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "count": len(values)}


def ratios(kept, ours, theirs, limits):
    """Ours over theirs in each round where both count and memory was the same for both."""
    rounds = {(s.side, s.round): s for s in kept}
    result = []
    for (side, number), sample in sorted(rounds.items()):
        other = rounds.get((theirs, number))
        if side == ours and other and not differ(sample.read, other.read, limits.probes):
            result.append(sample.rate / other.rate)
    return result
