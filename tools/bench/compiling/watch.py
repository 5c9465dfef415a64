"""Runs a program, watches its memory and what it reads, or interrupts it."""

import os
import pathlib
import signal
import subprocess
import threading
import time

SAMPLE_SECONDS = 0.02
CHUNK = 8 << 20


def status_of(process):
    """Bytes by name, of the lines in kB of /proc/PID/status; empty once the process has ended."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) * 1024 for f in fields if len(f) == 3 and f[2] == "kB"}


def disk_bytes_of(process):
    """What the process had read from disks, page faults and read-ahead included; None if that is not told."""
    try:
        lines = pathlib.Path(f"/proc/{process}/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), None)


class Memory(threading.Thread):
    """The most of each kind of resident memory, sampled: its own (anonymous and shared) and that of mapped files."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.ended = process, threading.Event()
        self.own = self.mapped = self.resident = self.samples = 0
        self.disk = None

    def run(self):
        while not self.ended.is_set():
            status = status_of(self.process)
            if "RssAnon" in status:
                self.own = max(self.own, status["RssAnon"] + status["RssShmem"])
                self.mapped = max(self.mapped, status["RssFile"])
                self.resident = max(self.resident, status["VmHWM"])
                self.samples += 1
                disk = disk_bytes_of(self.process)
                self.disk = self.disk if disk is None else disk
            self.ended.wait(SAMPLE_SECONDS)


def run(command):
    """Of a whole run: the exit status, what it printed, seconds, processor seconds, memory and bytes from disks."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    memory = Memory(child.pid)
    memory.start()
    printed = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    memory.ended.set()
    memory.join()
    child.stderr.close()
    return {
        "status": child.returncode, "printed": printed.strip(), "seconds": seconds,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "own_bytes": memory.own, "mapped_bytes": memory.mapped, "resident_bytes": memory.resident,
        "samples": memory.samples, "disk_bytes": memory.disk,
    }


def interrupt(command, number, seconds):
    """Sends a signal after so many seconds, unless the program has ended by then; returns the exit status."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(number)
        return child.wait()


def forget(files):
    """Drops files from the page cache, so that they are read from the disk."""
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(files):
    """Reads files one after the other in large pieces; returns the seconds that this took."""
    buffer = bytearray(CHUNK)
    started = time.perf_counter()
    for path in files:
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while file.readinto(buffer):
                pass
    return time.perf_counter() - started


SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
# An interrupted compilation ends orderly, unless it has not come to its first line yet; a killed one as it must.
EXPECTED = {"SIGINT": [130, -signal.SIGINT], "SIGTERM": [130, -signal.SIGTERM], "SIGKILL": [-signal.SIGKILL]}
