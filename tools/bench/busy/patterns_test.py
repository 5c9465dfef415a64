import os
import time
import unittest

from busy import measure, patterns


class Patterns(unittest.TestCase):
    def busy_children(self):
        own = os.getpid()
        count = 0
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as stat:
                        count += int(stat.read().rsplit(")", 1)[1].split()[1]) == own
                except (OSError, IndexError):
                    pass  # it ended meanwhile
        return count

    def test_busy_processes_come_and_go(self):
        before = self.busy_children()
        with patterns.busy(2).within([]):
            self.assertEqual(self.busy_children(), before + 2)
        self.assertEqual(self.busy_children(), before)

    def test_busy_processes_end_after_a_failure(self):
        before = self.busy_children()
        with self.assertRaises(ValueError):
            with patterns.busy(1, 0.1, 0.1).within([]):
                raise ValueError
        self.assertEqual(self.busy_children(), before)

    def test_one_processor_is_given_back(self):
        before = os.sched_getaffinity(0)
        with patterns.one_processor().within([os.getpid()]):
            self.assertEqual(len(os.sched_getaffinity(0)), 1)
        self.assertEqual(os.sched_getaffinity(0), before)

    def test_a_quota_holds_or_is_impossible(self):
        try:
            with patterns.quota(50).within([os.getpid()]):
                wall, used = time.monotonic(), time.process_time()
                while time.monotonic() - wall < 1:
                    pass
                self.assertLess(time.process_time() - used, 0.75)
        except patterns.Impossible as reason:
            self.skipTest(str(reason))


class Ratios(unittest.TestCase):
    def test_medians_of_ratios_within_a_round(self):
        rows = [{"pattern": "quiet", "rates": {"one thread": [5, 5, 5], "2 threads": [10, 9, 11]}},
                {"pattern": "one", "rates": {"one thread": [5, 4, 2], "2 threads": [4, 4, 4]}},
                {"pattern": "other", "skipped": "no"}]
        measure.add_ratios(rows, 2)
        self.assertEqual(rows[1]["to_better"], 1)
        self.assertEqual(rows[1]["to_undisturbed"], 0.4)
        self.assertIn("| other | skipped: no |", measure.table(rows))
        self.assertIn("| one | 4 | 4 | 1.00 | 0.40 |", measure.table(rows))


if __name__ == "__main__":
    unittest.main()
