"""What counts as an answer that a schema asks for: python3 -m unittest serving.constrained_test, in tools/bench."""

import json
import unittest

from serving import constrained


class ConstrainedTest(unittest.TestCase):
    def test_valid(self):
        schema = constrained.schema(5)
        names = list(schema["properties"])
        good = dict(zip(names, ("text", "low", True, [1, 3], None)))
        self.assertTrue(constrained.valid(json.dumps(good), schema))
        self.assertTrue(constrained.valid(json.dumps({**good, names[4]: "four"}), schema))
        bad = [{**good, names[0]: "more than 8"}, {**good, names[1]: "lower"}, {**good, names[2]: 1},
               {**good, names[3]: []}, {**good, names[3]: [True]}, {**good, names[3]: [1, 2, 3, 1]},
               {**good, names[4]: "fives"}, {**good, "other": 1}, dict(list(good.items())[1:]), [good], "text"]
        for value in bad:
            self.assertFalse(constrained.valid(json.dumps(value), schema), value)
        self.assertFalse(constrained.valid(json.dumps(good)[:-1], schema))

    def test_schemas_differ(self):
        self.assertNotEqual(constrained.schema(2, "a"), constrained.schema(2, "b"))
        self.assertGreater(len(json.dumps(constrained.schema(40))), 3000)


if __name__ == "__main__":
    unittest.main()
