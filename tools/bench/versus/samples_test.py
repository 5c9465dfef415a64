import dataclasses
import unittest

from versus import samples, turns
from versus.samples import Limits, Sample


def sample(side="ours", round=0, rate=10.0, before=40e9, after=40e9, others=0.0, steal=0.0, seconds=1.0):
    return Sample(side, round, rate, seconds, before, after, others, steal)


class Dropping(unittest.TestCase):
    limits = Limits(others=0.05, steal=0.1, probes=0.2, tick=0.01)

    def test_steady_sample_counts(self):
        self.assertIsNone(self.limits.fault(sample()))

    def test_probes_may_differ_by_a_fifth_of_the_smaller(self):
        for one, other, fault in ((40.0, 48.0, None), (40.0, 48.1, "probes"), (60.0, 40.0, "probes")):
            self.assertEqual(self.limits.fault(sample(before=one, after=other)), fault)
            self.assertEqual(self.limits.fault(sample(before=other, after=one)), fault)

    def test_without_probes_none_differ(self):
        self.assertIsNone(self.limits.fault(sample(before=0.0, after=0.0)))

    def test_others_may_use_the_limit_and_two_ticks(self):
        self.assertIsNone(self.limits.fault(sample(others=0.069)))
        self.assertEqual(self.limits.fault(sample(others=0.071)), "others")
        self.assertIsNone(self.limits.fault(sample(others=0.14, seconds=0.2)))  # ticks are coarse beside it
        self.assertEqual(self.limits.fault(sample(others=0.16, seconds=0.2)), "others")
        four = dataclasses.replace(self.limits, threads=4)
        self.assertIsNone(four.fault(sample(others=0.089)))
        self.assertEqual(four.fault(sample(others=0.091)), "others")

    def test_steal(self):
        self.assertEqual(self.limits.fault(sample(steal=0.13)), "steal")
        self.assertIsNone(self.limits.fault(sample(steal=0.11)))

    def test_split_counts_reasons(self):
        kept, dropped = samples.split([sample(), sample(others=1), sample(after=1e9), sample(others=2)], self.limits)
        self.assertEqual(len(kept), 1)
        self.assertEqual(dropped, {"others": 2, "probes": 1})


class Figures(unittest.TestCase):
    limits = Limits()

    def test_spread(self):
        self.assertIsNone(samples.spread([]))
        self.assertEqual(samples.spread([4, 1, 3]), {"median": 3, "min": 1, "max": 4, "count": 3})
        self.assertEqual(samples.spread([4, 1, 3, 2])["median"], 2.5)

    def test_ratio_is_taken_within_rounds(self):
        # The machine is twice as fast in round 1; the sides are as 3 to 2 in both. A round that lacks one of them,
        # or where memory changed in between, says nothing.
        kept = [sample("ours", 0, 30), sample("theirs", 0, 20),
                sample("ours", 1, 60, 80e9, 80e9), sample("theirs", 1, 40, 80e9, 80e9),
                sample("ours", 2, 60, 80e9, 80e9),
                sample("ours", 3, 60, 80e9, 80e9), sample("theirs", 3, 20, 40e9, 40e9)]
        self.assertEqual(samples.ratios(kept, "ours", "theirs", self.limits), [1.5, 1.5])
        self.assertEqual(samples.ratios(kept, "theirs", "ours", self.limits), [20 / 30, 40 / 60])
        self.assertEqual(samples.ratios(kept, "ours", "nobody", self.limits), [])

    def test_row(self):
        base = {"phase": "decode", "ours_active_bytes": 2e9, "theirs_active_bytes": 1e9}
        kept = [sample("ours", i, 10 + i, 40e9, 60e9) for i in range(3)] + [sample("theirs", 1, 22, 50e9, 50e9)]
        taken = kept + [sample("theirs", 0, others=0.5)]
        row = turns.row(base, taken, kept, {"others": 1}, "ours", "theirs", self.limits)
        self.assertEqual(row["others"], {"median": 0.0, "min": 0.0, "max": 0.5, "count": 5})
        self.assertEqual((row["ours"], row["theirs"], row["ratio"]), (11, 22, 0.5))
        self.assertAlmostEqual(row["ours_fraction"], 11 * 2e9 / 50e9)
        self.assertAlmostEqual(row["theirs_fraction"], 22 * 1e9 / 50e9)

    def test_row_without_samples_says_so(self):
        base = {"phase": "decode", "ours_active_bytes": None, "theirs_active_bytes": 1e9}
        kept = [sample("theirs", 0, 5)]
        row = turns.row(base, kept, kept, {}, "ours", "theirs", self.limits)
        self.assertEqual((row["ours"], row["ratio"], row["ours_fraction"], row["theirs"]), (None, None, None, 5))

    def test_prefill_is_measured_against_its_own_arithmetic(self):
        def prefill(bits):
            return {"phase": "prefill", "bits": bits, "threads": 2, "ours": 100.0, "theirs": None,
                    "operations_per_token": 1e9, "ours_fraction": None, "theirs_fraction": None}

        def peak(rate):
            return {"operations_per_second": rate}

        rows = [prefill(16), prefill(4)]
        turns.add_prefill_fractions(rows, {("fp32", 2): peak(1e11), ("int8", 2): peak(4e11), ("int8", 1): peak(1e11)})
        self.assertEqual([r["ours_fraction"] for r in rows], [1.0, 0.25])  # no bf16 here: fp32 is the best there is
        self.assertEqual([r["theirs_fraction"] for r in rows], [None, None])
        rows = [prefill(8)]
        turns.add_prefill_fractions(rows, {("fp32", 2): peak(1e11)})
        self.assertIsNone(rows[0]["ours_fraction"])


class Side:
    """Decodes at a given speed, and notes whose turn it was."""

    settle = 0.0

    def __init__(self, name, rate, log):
        self.name, self.rate, self.log = name, rate, log

    def decode(self, count, before):
        self.log.append(self.name)
        return {"tokens": count, "seconds": count / self.rate, "processor_seconds": 1000.0}  # so others have none

    def prefill(self, count):
        return self.decode(count, 0)


class Memory:
    """Whose speed falls to a half at each fourth probe."""

    def __init__(self):
        self.count = 0

    def read(self, threads):
        self.count += 1
        return 40e9 if self.count % 4 else 20e9


class Alternation(unittest.TestCase):
    def run_cell(self, phase, most):
        self.log, self.memory = [], Memory()
        sides = {name: Side(name, rate, self.log) for name, rate in (("ours", 300.0), ("theirs", 100.0))}
        plan = turns.Plan(turns=3, most=most, prompt=64, depth=0)
        cell = turns.Cell(sides, self.memory, 1, plan, Limits(), lambda text: None)
        return cell.run(phase)

    def test_goes_on_until_enough_of_both_count(self):
        _, kept, dropped = self.run_cell("decode", 50)
        for name in ("ours", "theirs"):
            self.assertGreaterEqual(sum(s.side == name for s in kept), 3)
        self.assertGreater(dropped["probes"], 0)
        self.assertTrue(all(s.before == s.after == 40e9 for s in kept))
        # The slower side's turn takes a quarter of a second, and both get the same tokens.
        self.assertTrue(all(abs(s.seconds * s.rate - 25) < 1e-6 for s in kept))

    def test_gives_up_where_too_few_count(self):
        taken, kept, dropped = self.run_cell("decode", 2)
        self.assertEqual((len(taken), len(kept) + sum(dropped.values())), (4, 4))

    def test_each_round_has_both_in_changing_order(self):
        self.run_cell("decode", 50)
        rounds = [tuple(self.log[i : i + 2]) for i in range(6, len(self.log), 2)]  # three of each choose the length
        self.assertTrue(all(sorted(r) == ["ours", "theirs"] for r in rounds))
        self.assertEqual(len(set(rounds)), 2)

    def test_prefill_needs_no_probe(self):
        _, kept, dropped = self.run_cell("prefill", 50)
        self.assertEqual((len(kept), dropped, self.memory.count), (6, {}, 0))


if __name__ == "__main__":
    unittest.main()
