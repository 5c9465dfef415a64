"""Clients that break off, lag, lie and flood, beside reloads: the server answers others, and keeps nothing of them.

MOE_SERVE_ROUNDS says how many times as much is tried. A build with sanitizers runs the same.
"""

import json
import os
import random
import signal
import socket
import struct
import threading
import time
import unittest

from serving import Answer, PATIENCE, ProcessTest, wait_until

ROUNDS = int(os.environ.get("MOE_SERVE_ROUNDS", "1"))
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def post(body, head=HEAD):
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def completion(**fields):
    return post(json.dumps({"prompt": "In the beginning", "max_tokens": 8, **fields}).encode())


DEEP = b"[" * 100000
LONG = {"stream": True, "max_tokens": 200, "ignore_eos": True}
# What is sent, whole; the server may answer anything but 200 for those that are wrong, or close.
MESSAGES = {
    "half a line": b"POST /v1/comp",
    "half a header": HEAD + b"X-Half: ",
    "half a body": HEAD + b"Content-Length: 100\r\n\r\n{\"prompt\"",
    "no JSON": post(b"{\"prompt\": nonsense"),
    "deep JSON": post(DEEP),
    "deep JSON in a member": post(b'{"prompt": "x", "metadata": ' + DEEP + b"}"),
    "deep schema": completion(structured_outputs={"json": json.loads("[" * 40 + "]" * 40)}),
    "bad UTF-8": post(b'{"prompt": "\xff\xfe\xc0\x80\xed\xa0\x80"}'),
    "half a surrogate": post(b'{"prompt": "\\ud800"}'),
    "numbers without end": post(b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}"),
    "a huge header": HEAD + b"X-Huge: " + b"a" * 100000 + b"\r\n\r\n",
    "many headers": HEAD + b"X: y\r\n" * 5000 + b"\r\n",
    "a negative chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n0\r\n\r\n",
    "a huge chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
    "chunks of one byte": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 3000 + b"0\r\n\r\n",
    "a chunk's extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 20000 + b"\r\n{\r\n0\r\n\r\n",
    "trailers": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: x\r\n" * 5000 + b"\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a huge length": HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "NUL": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "noise": random.Random(5).randbytes(4096),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


class Hostile(ProcessTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(7)
        self.server = self.serve("--max-waiting", 4096, "--header-seconds", 2, "--body-seconds", 2, "--write-seconds", 2,
                                 "--max-per-address", 2048).wait_healthy()
        self.descriptors = self.open_descriptors()

    def open_descriptors(self):
        return len(os.listdir(f"/proc/{self.server.process.pid}/fd"))

    def figure(self, name):
        lines = [line for line in self.server.get("/metrics")[2].splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def connect(self):
        client = socket.create_connection(("127.0.0.1", self.server.port), PATIENCE)
        self.addCleanup(client.close)
        return client

    def cut(self, client):
        """Closes with a reset."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    def tearDown(self):
        """Nothing is left, and others are served."""
        self.assertTrue(self.server.complete(max_tokens=4)["choices"][0]["text"])
        wait_until(lambda: self.figure("vllm:num_requests_running") + self.figure("vllm:num_requests_waiting") == 0,
                   "the end of all requests")
        held = [line for line in self.server.get("/metrics")[2].splitlines()
                if line.startswith("moe_kv_pages") and 'state="held"' in line]
        self.assertTrue(held)
        self.assertTrue(all(line.endswith(" 0") or line.endswith(" 0.0") for line in held), held)
        wait_until(lambda: self.open_descriptors() <= self.descriptors + 1, "the end of all connections")
        self.assertEqual(self.server.terminate(), 0, self.server.lines)
        self.assertEqual([line for line in self.server.lines if "Sanitizer" in line or "runtime error" in line], [])

    def test_messages(self):
        for name, message in MESSAGES.items():
            for size in {len(message), len(message) // 2, self.random.randrange(1, len(message) + 1)}:
                with self.subTest(message=name, size=size):
                    client = self.connect()
                    try:
                        client.sendall(message[:size])
                        client.shutdown(socket.SHUT_WR)
                        answer = client.recv(64)
                        self.assertNotIn(b" 200 ", answer)
                        self.assertNotIn(b" 500 ", answer)
                    except (ConnectionResetError, BrokenPipeError):
                        pass  # it was closed before all was sent
                    client.close()

    def test_one_byte_at_a_time(self):
        client = self.connect()
        for byte in completion():
            client.sendall(bytes([byte]))
        self.assertIn(b" 200 ", client.recv(64))

    def test_pipelining(self):
        client = self.connect()
        count = 40
        client.sendall(completion() * (count - 1) + completion().replace(b"\r\nHost", b"\r\nConnection: close\r\nHost", 1))
        answers = b""
        while piece := client.recv(1 << 16):
            answers += piece
        self.assertEqual(answers.count(b"HTTP/1.1 200 "), count)

    def test_connections(self):
        """More than there may be, of which none says anything."""
        clients = []
        for _ in range(3000):
            clients.append(self.connect())
        self.assertIn(b" 503 ", clients[-1].recv(64))
        for client in clients:
            client.close()
        wait_until(lambda: self.open_descriptors() < self.descriptors + 50, "the end of the connections")

    def test_readers_that_read_nothing(self):
        clients = [self.connect() for _ in range(20)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.sendall(completion(**LONG, logprobs=20))
        wait_until(lambda: self.figure("vllm:request_success_total") >= 20, "the end of their answers")
        for client in clients:
            self.cut(client)

    def test_churn_beside_reloads(self):
        stop, failed = threading.Event(), []

        def client(seed):
            mine = random.Random(seed)
            for _ in range(40 * ROUNDS):
                try:
                    connection = self.connect()
                    connection.sendall(completion(**LONG, n=mine.choice((1, 1, 3)), prompt="In the " * mine.randrange(1, 60)))
                    for _ in range(mine.randrange(6)):
                        connection.recv(mine.choice((1, 100, 5000)))
                    if mine.random() < 0.5:
                        self.cut(connection)
                    else:
                        connection.close()
                except OSError as problem:
                    failed.append(problem)

        def whole():
            while not stop.is_set():
                answer = Answer(self.server, max_tokens=8, ignore_eos=True, seed=1).wait()
                if not answer.whole():
                    failed.append((answer.status, answer.broken, answer.error))
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
        patient = threading.Thread(target=whole)
        for thread in [*threads, patient]:
            thread.start()
        loads = 1
        while any(thread.is_alive() for thread in threads):
            self.server.signal(signal.SIGHUP)
            wait_until(lambda: len(self.server.said(" s on cpu:")) > loads, "a reload")
            loads = len(self.server.said(" s on cpu:"))
            time.sleep(0.2)
        stop.set()
        patient.join()
        self.assertEqual(failed, [])
        self.assertGreater(loads, 1)


if __name__ == "__main__":
    unittest.main()
