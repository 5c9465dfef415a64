"""Who may ask: API keys, and what clients that mean harm do to others."""

import json
import os
import socket
import struct
import threading
import unittest

from serving import Answer, PLAN, ProcessTest


class Keys(ProcessTest):
    def test_a_key_is_asked_for(self):
        keys = self.folder / "keys"
        keys.write_text("# of the tests\nalice:correct-horse\nbob:battery-staple\n")
        keys.chmod(0o640)
        status, said = self.run_to_the_end("--port", 0, "--api-key-file", keys, PLAN)
        self.assertEqual(status, 1)
        self.assertIn("chmod 600", said)
        self.assertEqual(len(said.splitlines()), 1, said)
        keys.chmod(0o600)
        server = self.serve("--api-key-file", keys).wait_healthy()  # which needs none

        def ask(**headers):
            body = {"prompt": "x", "max_tokens": 2}
            return server.ask("POST", "/v1/completions", body,
                              headers={name.replace("_", "-"): value for name, value in headers.items()})
        for headers in ({}, {"Authorization": "Bearer correct-hors"}, {"Authorization": "Basic correct-horse"},
                        {"x_api_key": "alice"}):
            status, answer, body = ask(**headers)
            self.assertEqual(status, 401)
            self.assertEqual(answer["WWW-Authenticate"], "Bearer")
            self.assertEqual(json.loads(body)["error"]["code"], "invalid_api_key")
        self.assertEqual(server.get("/v1/models")[0], 401)
        self.assertEqual(ask(Authorization="Bearer correct-horse")[0], 200)
        self.assertEqual(ask(x_api_key="battery-staple")[0], 200)
        self.assertFalse(server.said("correct-horse"))


REQUEST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "


class Hostile:
    """One way to be a nuisance, over and over."""

    def __init__(self, server, stop, attack):
        self.address, self.stop, self.attack = ("127.0.0.1", server.port), stop, attack
        self.rounds = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stop.is_set():
            try:
                with socket.create_connection(self.address, 1) as connection:
                    self.attack(connection)
            except OSError:
                pass
            self.rounds += 1


def send_and_read(data):
    def attack(connection):
        connection.sendall(data)
        while connection.recv(65536):
            pass
    return attack


def drip(connection):
    for byte in REQUEST:
        connection.sendall(bytes([byte]))


def never_read(connection):
    body = b'{"prompt":"x","stream":true,"max_tokens":400,"ignore_eos":true}'
    request = REQUEST + str(len(body)).encode() + b"\r\n\r\n" + body
    for _ in range(50):
        connection.sendall(request)


def go_with_a_reset(connection):
    body = b'{"prompt":"x","stream":true,"max_tokens":400}'
    connection.sendall(REQUEST + str(len(body)).encode() + b"\r\n\r\n" + body)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ATTACKS = [
    send_and_read(os.urandom(4096)),
    send_and_read(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)),  # a hello of TLS
    send_and_read(b"GET / HTTP/1.1\r\n" + b"x: " + b"a" * 65536 + b"\r\n\r\n"),
    send_and_read(REQUEST + b"99999999999999999999\r\n\r\n"),
    send_and_read(REQUEST + b"1000000\r\n\r\n" + b"[" * 1000000),
    send_and_read(REQUEST + b"10\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    send_and_read(b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" * 100),
    drip,
    never_read,
    go_with_a_reset,
]


class Nuisance(ProcessTest):
    def test_a_good_stream_is_not_disturbed(self):
        server = self.serve().wait_healthy()
        good = {"max_tokens": 400, "ignore_eos": True, "seed": 5, "temperature": 1}
        alone = Answer(server, **good).wait()
        self.assertTrue(alone.whole())
        stop = threading.Event()
        hostile = [Hostile(server, stop, attack) for attack in ATTACKS]
        try:
            for _ in range(2):
                beside = Answer(server, **good).wait()
                self.assertTrue(beside.whole(), (beside.status, beside.broken, beside.error))
                self.assertEqual(beside.text, alone.text)
        finally:
            stop.set()
            for each in hostile:
                each.thread.join()
        self.assertEqual([each.rounds > 0 for each in hostile], [True] * len(ATTACKS))
        self.assertEqual(server.get("/health")[0], 200)
        self.assertFalse(server.said("threw"))
        self.assertEqual(server.terminate(), 0)


if __name__ == "__main__":
    unittest.main()
