"""Programs that take a known amount of memory, read a known file, and end or do not end when asked."""

import pathlib
import signal
import sys
import tempfile
import unittest

from compiling import watch

MB = 1 << 20


def python(program, *arguments):
    return [sys.executable, "-c", program, *map(str, arguments)]


class WatchTest(unittest.TestCase):
    def test_own_memory_and_that_of_files(self):
        program = """
import mmap, sys, time
own = bytearray(b"x") * (40 << 20)
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    total = sum(mapped[i] for i in range(0, len(mapped), 4096))
time.sleep(0.2)
print("done", file=sys.stderr)
sys.exit(3)
"""
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(80 * MB))
            file.flush()
            result = watch.run(python(program, file.name))
        self.assertEqual((result["status"], result["printed"]), (3, "done"))
        self.assertTrue(40 * MB <= result["own_bytes"] < 75 * MB, result)
        self.assertGreaterEqual(result["mapped_bytes"], 80 * MB)
        self.assertGreaterEqual(result["resident_bytes"], 120 * MB)
        self.assertTrue(result["seconds"] > 0.2 and result["processor_seconds"] > 0)

    def test_interrupts(self):
        sleep = python("import time; time.sleep(60)")
        self.assertEqual(watch.interrupt(sleep, signal.SIGKILL, 0.05), -signal.SIGKILL)
        self.assertEqual(watch.interrupt(sleep, signal.SIGTERM, 0.05), -signal.SIGTERM)
        self.assertEqual(watch.interrupt(python("import sys; sys.exit(4)"), signal.SIGKILL, 30), 4)

    def test_reads_files(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(20 * MB + 1))
            file.flush()
            watch.forget([pathlib.Path(file.name)])
            self.assertGreater(watch.read_all([pathlib.Path(file.name)]), 0)


if __name__ == "__main__":
    unittest.main()
