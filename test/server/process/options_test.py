"""The ends of each option's range: what the command line takes, the server can be."""

import unittest

from serving import ProcessTest, wait_until

# Option, least, most, one below, one above. None: there is no such end.
RANGES = [
    ("--threads", 1, None, 0, 4097),
    ("--context", 2, None, 0, (1 << 40) + 1),
    ("--max-sequences", 1, 4096, 0, 65537),
    ("--max-step", 1, None, 0, (1 << 20) + 1),
    ("--kv-memory", None, "64M", 0, "2000000000G"),
    ("--draft-tokens", 0, 16, -1, 17),
    ("--itl-stretch", 1, 1000, 0.5, 1001),
    ("--itl-stretch", None, None, -1, "nan"),
    ("--prompt-share", 0, 1, -0.1, 1.1),
    ("--max-waiting", 1, 1 << 20, 0, (1 << 20) + 1),
    ("--max-queue-seconds", 0.5, 1e6, 0, 1e7),
    ("--max-per-key", 0, 1 << 20, -1, (1 << 20) + 1),
    ("--max-body", 1000, "1T", 0, "2000000000G"),
    ("--max-header", 1000, "1G", 0, "2000000000G"),
    ("--max-connections", 2, 1 << 20, 0, (1 << 20) + 1),
    ("--max-per-address", 2, 1 << 20, 0, (1 << 20) + 1),
    ("--header-seconds", 1, 1e6, 0, 1e7),
    ("--body-seconds", 1, 1e6, 0, 1e7),
    ("--idle-seconds", 1, 1e6, 0, 1e7),
    ("--write-seconds", 1, 1e6, 0, 1e7),
    ("--drain-grace", 0, 1e6, -1, 1e7),
    ("--drain-seconds", 0, 1e6, -1, 1e7),
    ("--port", None, None, -1, 65536),
]
# Below these an answer cannot be had in any time or size, but the server is there.
LEAST = [("--max-queue-seconds", 0.001), ("--max-body", 1), ("--max-header", 1), ("--max-connections", 1),
         ("--max-per-address", 1), ("--header-seconds", 0.001), ("--body-seconds", 0.001), ("--idle-seconds", 0.001),
         ("--write-seconds", 0.001)]
# A plan may have less than these ask for.
PLANS_OWN = [("--threads", 4096), ("--context", 1), ("--context", 1 << 40), ("--max-sequences", 65536),
             ("--max-step", 1 << 20), ("--kv-memory", 1)]


class Ranges(ProcessTest):
    def test_ends_serve(self):
        for index in (1, 2):
            self.serves({row[0]: row[index] for row in RANGES if row[index] is not None})

    def serves(self, options):
        with self.subTest(options=options):
            server = self.serve(*(word for option in options.items() for word in option))
            self.assertIsNotNone(server.port, server.lines)
            server.wait_healthy()
            self.assertTrue(server.complete(prompt=[1], max_tokens=1, ignore_eos=True)["choices"])
            self.assertEqual(server.said("error: "), [])
            server.signal(2)
            wait_until(lambda: server.said("draining"), "a drain")
            server.signal(2)  # which may take 1e6 s: at once
            server.status()

    def test_beyond_them_is_refused_by_name(self):
        for option, _, _, *beyond in RANGES:
            for value in beyond:
                with self.subTest(option=option, value=value):
                    status, said = self.run_to_the_end(f"{option}={value}", "no.plan")
                    self.assertEqual(status, 2, said)
                    self.assertIn(option, said)
                    self.assertEqual(said.count("\n"), 1, said)

    def test_the_least_is_no_error(self):
        server = self.serve(*(word for option in LEAST for word in option))
        self.assertIsNotNone(server.port, server.lines)
        self.assertEqual(server.terminate(), 0, server.lines)

    def test_what_a_plan_cannot_is_said(self):
        for option, value in PLANS_OWN:
            with self.subTest(option=option, value=value):
                server = self.serve(option, value)
                wait_until(lambda: server.process.poll() is not None or server.said(" s on cpu:"), "loading")
                if server.process.poll() is None:
                    self.assertEqual(server.terminate(), 0)
                else:
                    self.assertEqual(server.status(), 1)
                    self.assertEqual(len(server.said("error: ")), 1, server.lines)


if __name__ == "__main__":
    unittest.main()
