"""Where threads go: python3 -m unittest serving.layouts_test, in tools/bench."""

import unittest

from serving import layouts


class LayoutsTest(unittest.TestCase):
    def test_two_processors(self):
        self.assertEqual([layouts.workers(name, [2, 5]) for name in ("free", "pinned", "apart")], [2, 2, 1])
        self.assertEqual(layouts.assignment("free", [2, 5], [10, 11], [12]), {})
        self.assertEqual(layouts.assignment("pinned", [2, 5], [10, 11], [12]), {10: {2}, 11: {5}})
        self.assertEqual(layouts.assignment("apart", [2, 5], [10], [11, 12]), {10: {2}, 11: {5}, 12: {5}})

    def test_four_processors(self):
        self.assertEqual(layouts.assignment("apart", [0, 1, 2, 3], [7, 8, 9], [6]),
                         {7: {0, 1, 2}, 8: {0, 1, 2}, 9: {0, 1, 2}, 6: {3}})

    def test_one_processor_has_all(self):
        self.assertEqual(layouts.workers("apart", [0]), 1)
        self.assertEqual(layouts.assignment("apart", [0], [7], [8]), {})


if __name__ == "__main__":
    unittest.main()
