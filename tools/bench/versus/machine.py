"""What else the machine does. Standard library only."""

import os
import platform
import time


def parse_stat(text, tick):
    """Seconds that all processors were busy, and that the host took, from /proc/stat."""
    fields = [int(field) * tick for field in text.split("\n", 1)[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    return user + nice + system + irq + softirq, steal


class Watch:
    """From its making to `stop`: how many processors others kept busy, and how many the host took."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        with open("/proc/stat", encoding="ascii") as file:
            busy, steal = parse_stat(file.read(), 1 / os.sysconf("SC_CLK_TCK"))
        return time.perf_counter(), time.process_time(), busy, steal

    def stop(self, own):
        """`own`: processor seconds of the side whose turn it was. This process's are added."""
        seconds, self_used, busy, steal = (b - a for a, b in zip(self.start, self.now()))
        return max(0.0, busy - own - self_used) / seconds, steal / seconds


def memory(field):
    """Bytes, of a line of /proc/meminfo."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def available_memory():
    """Bytes that programs may get, the page cache's among them."""
    return memory("MemAvailable")


def processors():
    return len(os.sched_getaffinity(0))


def describe():
    model = platform.machine()
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"processor": model, "processors": processors(), "system": f"{platform.system()} {platform.release()}",
            "load": os.getloadavg()[0], "memory_bytes": memory("MemTotal")}
