"""Servers under load: started on a free port, watched through /proc, ended orderly."""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time


class Failure(Exception):
    """A server did not do what it should; the message says what."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A process that answers at `address`. `command(port)`: its arguments."""

    def __init__(self, name, command, ready="/health", seconds=300):
        self.name = name
        self.address = ("127.0.0.1", free_port())
        self.log = tempfile.TemporaryFile(mode="w+", errors="replace")
        began = time.monotonic()
        self.process = subprocess.Popen([str(part) for part in command(self.address[1])], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=subprocess.STDOUT)
        while self.status(ready) != 200:
            if self.process.poll() is not None or time.monotonic() - began > seconds:
                self.stop()
                raise Failure(f"{name} did not come up: {self.said()}")
            time.sleep(0.002)
        self.start_seconds = time.monotonic() - began

    def said(self):
        self.log.seek(0)
        return self.log.read()[-2000:].strip() or "it said nothing"

    def request(self, method, path, body=None, headers=None):
        """Status and body."""
        connection = http.client.HTTPConnection(*self.address, timeout=300)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None,
                               {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def status(self, path):
        try:
            return self.request("GET", path)[0]
        except (OSError, http.client.HTTPException):
            return None

    def figures(self):
        """Prometheus' samples, by name with labels."""
        samples = {}
        for line in self.request("GET", "/metrics")[1].splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def resident(self):
        """Bytes of memory that are this process's own, without files that it maps."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("RssAnon:"))

    def threads(self):
        """Processor seconds by thread name."""
        seconds = {}
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
            used = rest.split()
            seconds[f"{name} {task.name}"] = (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")
        return seconds

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
