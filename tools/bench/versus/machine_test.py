import unittest

from versus import machine


class Machine(unittest.TestCase):
    def test_stat(self):
        # user nice system idle iowait irq softirq steal guest guest_nice; guest is part of user
        text = "cpu  100 20 30 4000 50 6 7 80 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
        busy, steal = machine.parse_stat(text, tick=0.01)
        self.assertAlmostEqual(busy, 1.63)
        self.assertAlmostEqual(steal, 0.8)

    def test_what_we_use_ourselves_is_not_of_others(self):
        watch = machine.Watch()
        others, steal = watch.stop(own=1e6)
        self.assertEqual(others, 0.0)
        self.assertGreaterEqual(steal, 0.0)

    def test_this_machine(self):
        self.assertGreaterEqual(machine.processors(), 1)
        self.assertGreater(machine.available_memory(), 1 << 20)
        self.assertEqual(machine.describe()["processors"], machine.processors())


if __name__ == "__main__":
    unittest.main()
