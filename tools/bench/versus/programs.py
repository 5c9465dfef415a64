"""The programs that take turns: moe-run, llama.cpp and the probe, each a process that waits for requests."""

import json
import pathlib
import resource
import signal
import subprocess
import sys
import time


class Failure(Exception):
    """What stops a run: a program that fails, or is not there."""


def end_orderly():
    """An end by a signal is an exception, so that no large file stays behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


class Program:
    """A process that answers each line of its input with one line of JSON."""

    def __init__(self, command, purpose):
        self.purpose = purpose
        self.started = time.perf_counter()
        try:
            # Ctrl-C is ours to notice: they end with their input.
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                            bufsize=1, start_new_session=True)
        except OSError as error:
            raise Failure(f"cannot start {command[0]}: {error.strerror}") from None

    def receive(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"{self.purpose} ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failure(f"{self.purpose}: {answer['error']}")
        return answer

    def send(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failure(f"{self.purpose} ended with status {self.process.wait()}") from None
        return self.receive()

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def peak_bytes(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


class Ours(Program):
    settle = 0.0  # its threads sleep within a millisecond

    def __init__(self, tools, plan, context, threads):
        command = [str(tools / "moe-run"), "bench", str(plan), "--serve", "--device", "cpu"]
        super().__init__([*command, "--context", str(context), "--threads", str(threads)], "moe-run bench")
        self.about = self.receive()
        self.active_bytes = self.about["active_weight_bytes"]

    def prefill(self, count):
        return self.send(f"prefill {count}")

    def decode(self, count, before=0):
        return self.send(f"decode {count} {before}")


class Theirs(Program):
    # OpenMP's threads spin after their work, for a time that its settings do not tell.
    settle = 0.03

    def __init__(self):
        super().__init__([sys.executable, str(pathlib.Path(__file__).with_name("llama_worker.py"))], "llama.cpp")
        self.about = self.receive()

    def ask(self, do, **arguments):
        return self.send(json.dumps({"do": do, **arguments}))

    def load(self, path, context, threads, **more):
        self.started = time.perf_counter()  # with the interpreter and the library ready
        return self.ask("load", path=str(path), context=context, threads=threads, **more)

    def prefill(self, count):
        return self.ask("prefill", count=count)

    def decode(self, count, before=0):
        return self.ask("decode", count=count, before=before)

    def peak_bytes(self):
        return self.ask("memory")["peak_bytes"]


class Peer:
    """Any build of llama-bench: a process for each turn, which loads the file, warms up, and is timed by itself."""

    settle = 0.0  # it has ended

    def __init__(self, bench, gguf, threads):
        self.command = [str(bench), "-m", str(gguf), "-t", str(threads), "-r", "1", "-o", "json", "-ngl", "0"]
        known = self.run([str(bench), "--help"]).stdout  # whatever status it ends with
        # Its best settings, where it has them: flash attention, and weights packed anew while loading.
        for option in ("-fa", "-rtr"):
            if f" {option}, " in known:
                self.command += [option, "1"]
        self.has_depth = " -d, " in known
        self.has_pair = " -gp " in known

    @staticmethod
    def run(command):
        try:
            return subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise Failure(f"cannot start {command[0]}: {error.strerror}") from None

    def turn(self, count, *arguments):
        def used():
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            return children.ru_utime + children.ru_stime

        before = used()
        done = self.run([*self.command, *arguments])
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise Failure(f"{' '.join(done.args)} ended with status {done.returncode}: {last[0]}")
        try:
            seconds = json.loads(done.stdout)[-1]["samples_ns"][0] / 1e9
        except (ValueError, LookupError, TypeError):
            raise Failure(f"{self.command[0]} printed no samples_ns; is it llama-bench?") from None
        return {"tokens": count, "seconds": seconds, "processor_seconds": used() - before}

    def prefill(self, count):
        return self.turn(count, "-p", str(count), "-n", "0")

    def decode(self, count, before=0):
        if not before:
            return self.turn(count, "-p", "0", "-n", str(count))
        if self.has_depth:
            return self.turn(count, "-p", "0", "-n", str(count), "-d", str(before))
        if self.has_pair:
            return self.turn(count, "-p", "0", "-n", "0", "-gp", f"{before},{count}")
        raise Failure(f"{self.command[0]} decodes from an empty context alone: leave out --depth")


class Probe(Program):
    def __init__(self, tools):
        super().__init__([str(tools / "bench-probe")], "bench-probe")

    def read(self, threads):
        """Bytes per second."""
        return self.send(f"read {threads}")["bytes_per_second"]

    def arithmetic(self, type, threads):
        """Operations per second (None where the processor has none) and the instruction."""
        answer = self.send(f"arithmetic {type} {threads}")
        return answer["operations_per_second"], answer["instruction"]

    def ping_pong(self):
        """Nanoseconds one way, or None."""
        return self.send("ping-pong")["one_way_nanoseconds"]
