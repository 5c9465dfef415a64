"""Ways in which processors are taken from a program. Standard library only."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

# A process that computes for `on` seconds of each `on + off`; with off = 0 always.
BUSY = """
import sys, time
on, off = float(sys.argv[1]), float(sys.argv[2])
while True:
    end = time.monotonic() + on
    while time.monotonic() < end:
        for _ in range(10000):
            pass
    time.sleep(off)
"""


class Impossible(Exception):
    """A pattern that this machine or this user cannot make."""


class Pattern:
    """`within(process ids)` is a context in which the pattern holds for these processes."""

    def __init__(self, name, within):
        self.name, self.within = name, within


@contextlib.contextmanager
def _busy(count, on, off):
    command = [sys.executable, "-c", BUSY, str(on), str(off)]
    programs = [subprocess.Popen(command) for _ in range(count)]
    try:
        time.sleep(0.3)  # the interpreter starts
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def busy(count, on=1.0, off=0.0):
    name = {1: "one busy process", 2: "two busy processes"}.get(count, f"{count} busy processes")
    if off:
        name += f", {on:g} s on, {off:g} s off"
    return Pattern(name, lambda pids: _busy(count, on, off))


def threads_of(pid):
    return [int(task) for task in os.listdir(f"/proc/{pid}/task")]


@contextlib.contextmanager
def _one_processor(pids):
    before = {}
    try:
        one = {min(os.sched_getaffinity(0))}
        for pid in pids:
            for thread in threads_of(pid):
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, one)
        yield
    finally:
        for thread, processors in before.items():
            os.sched_setaffinity(thread, processors)


def one_processor():
    """The threads were started for more, and may now use one."""
    return Pattern("one processor by taskset", _one_processor)


def cgroup_root():
    """The folder of control groups that limit processor time, and whether it is of version 2."""
    if pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return pathlib.Path("/sys/fs/cgroup"), True
    return pathlib.Path("/sys/fs/cgroup/cpu"), False


@contextlib.contextmanager
def _quota(percent, pids):
    root, unified = cgroup_root()
    group = root / f"moec-busy-machine-{os.getpid()}"
    period = 100000
    try:
        group.mkdir()
        if unified:
            (group / "cpu.max").write_text(f"{period * percent // 100} {period}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(period * percent // 100))
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise Impossible(f"a quota of processor time needs a control group: {error}") from None
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(OSError):
                (root / "cgroup.procs").write_text(str(pid))
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.02)


def quota(percent):
    return Pattern(f"a quota of {percent} %", lambda pids: _quota(percent, pids))


@contextlib.contextmanager
def _quiet(_):
    yield


def all_patterns():
    processors = len(os.sched_getaffinity(0))
    return {
        "quiet": Pattern("quiet", _quiet),
        "one": busy(1),
        "all": busy(processors),
        "alternating": busy(1, 1.0, 1.0),
        "flickering": busy(1, 0.05, 0.05),
        "quota": quota(75 * processors),
        "taskset": one_processor(),
    }


def end_orderly():
    """An end by a signal is an exception, so that no busy process stays behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
