import os
import stat
import tempfile
import textwrap
import unittest

from versus.programs import Failure, Peer

# A llama-bench that says what it was asked.
FAKE = """
import json, sys
if "--help" in sys.argv:
    print("  -m, --model <filename>\\n  -fa, --flash-attn <0|1>\\n{more}")
    sys.exit(0)
def of(option, default="0"):
    return sys.argv[sys.argv.index(option) + 1] if option in sys.argv else default
assert of("-fa") == "1" and of("-r") == "1" and of("-t") == "2" and of("-m") == "x.gguf"
if of("-n") == "13":
    sys.exit("unlucky")
if of("-n") == "14":
    print("no JSON")
    sys.exit(0)
first, count = of("-gp", "0,0").split(",")
tokens = int(of("-p")) + int(of("-n")) + int(first) + int(count) + int(of("-d"))
print(json.dumps([{{"samples_ns": [1]}}, {{"samples_ns": [tokens * 1000000000]}}]))
"""


class Peers(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def peer(self, more=""):
        path = os.path.join(self.folder.name, "llama-bench")
        with open(path, "w", encoding="ascii") as file:
            file.write("#!/usr/bin/env python3" + textwrap.dedent(FAKE.format(more=more)))
        os.chmod(path, stat.S_IRWXU)
        return Peer(path, "x.gguf", 2)

    def test_turns(self):
        peer = self.peer()
        self.assertEqual(peer.prefill(5)["seconds"], 5)
        answer = peer.decode(7)
        self.assertEqual((answer["seconds"], answer["tokens"]), (7, 7))
        self.assertGreater(answer["processor_seconds"], 0)

    def test_depth_as_the_build_has_it(self):
        self.assertEqual(self.peer("  -d, --n-depth <n>").decode(7, 100)["seconds"], 107)
        self.assertEqual(self.peer("  -gp <pp,tg>").decode(7, 100)["seconds"], 107)
        with self.assertRaisesRegex(Failure, "leave out --depth"):
            self.peer().decode(7, 100)

    def test_failures_are_told(self):
        with self.assertRaisesRegex(Failure, "ended with status 1: unlucky"):
            self.peer().decode(13)
        with self.assertRaisesRegex(Failure, "is it llama-bench"):
            self.peer().decode(14)
        with self.assertRaisesRegex(Failure, "cannot start"):
            Peer(os.path.join(self.folder.name, "absent"), "x.gguf", 2)


if __name__ == "__main__":
    unittest.main()
