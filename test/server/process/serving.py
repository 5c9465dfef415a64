"""A moe-serve that a test runs, and a client of it that hides nothing. MOE_SERVE is the program, MOE_SERVE_PLAN a plan.

Nothing but Python's own library is used.
"""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

SERVE = os.environ["MOE_SERVE"]
PLAN = os.environ["MOE_SERVE_PLAN"]
PATIENCE = 60  # seconds, after which something hangs
SKIPPED = 77  # which CTest shows as skipped


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen in {PATIENCE} s")
        time.sleep(0.005)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


class Server:
    """Is there once it listens; what it says on stderr is in `lines`."""

    def __init__(self, *arguments, plans=(PLAN,), env=None):
        self.lines = []
        self.began = time.monotonic()
        self.process = subprocess.Popen([SERVE, "--port", "0", *map(str, arguments), *map(str, plans)],
                                        stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        self.reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stderr.readline, "")))
        self.reader.start()
        wait_until(lambda: self.said("listening at ") or self.process.poll() is not None, "listening")
        listening = self.said("listening at ")
        self.port = int(listening[0].rsplit(":", 1)[1]) if listening else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.status()

    def said(self, text):
        return [line for line in list(self.lines) if text in line]

    def status(self):
        """Of the process, which is about to end."""
        status = self.process.wait(PATIENCE)
        self.reader.join()
        self.process.stderr.close()
        return status

    def signal(self, number):
        self.process.send_signal(number)

    def terminate(self):
        self.signal(signal.SIGTERM)
        return self.status()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, method, path, body=None, headers=(), connection=None):
        """Status, headers and body."""
        connection = connection or self.connect()
        try:
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Content-Type": "application/json", **dict(headers)})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def complete(self, **fields):
        """The completion of a prompt, as JSON."""
        status, _, body = self.ask("POST", "/v1/completions", {"prompt": "In the beginning", **fields})
        if status != 200:
            raise AssertionError(f"status {status}: {body}")
        return json.loads(body)

    def wait_healthy(self):
        wait_until(lambda: self.get("/health")[0] == 200, "/health with status 200")
        return self


class Answer:
    """To a request for a completion; reads it on a thread of its own."""

    def __init__(self, server, stream=True, **fields):
        self.status = self.error = self.broken = None
        self.done = False  # the answer is whole
        self.text, self.events = "", 0
        self.server, self.stream = server, stream
        self.body = {"prompt": "In the beginning", "stream": stream, **fields}
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        connection = self.server.connect()
        try:
            connection.request("POST", "/v1/completions", json.dumps(self.body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            self.status = answer.status
            self.read(answer)
        except (OSError, http.client.HTTPException) as problem:
            self.broken = problem
        finally:
            connection.close()

    def read(self, answer):
        if not self.stream or self.status != 200:
            body = json.loads(answer.read())
            self.error = body.get("error")
            self.done = True
            if not self.error:
                self.text = body["choices"][0]["text"]
            return
        for line in answer:
            if line == b"data: [DONE]\n":
                self.done = True
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                self.error = event.get("error", self.error)
                self.events += 1
                self.text += "".join(choice["text"] for choice in event.get("choices", ()))

    def wait(self):
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            raise AssertionError("an answer did not end")
        return self

    def whole(self):
        return self.status == 200 and self.done and not self.error


class ProcessTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def serve(self, *arguments, **more):
        server = Server(*arguments, **more)
        self.addCleanup(server.__exit__)
        return server

    def run_to_the_end(self, *arguments):
        """Status and stderr of a moe-serve that ends by itself."""
        done = subprocess.run([SERVE, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=PATIENCE)
        return done.returncode, done.stderr
