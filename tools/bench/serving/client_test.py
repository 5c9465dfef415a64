"""Tests of the client against a server made up here: python3 -m unittest serving.client_test, in tools/bench."""

import json
import os
import random
import socketserver
import threading
import time
import unittest

from serving import client


class Handler(socketserver.StreamRequestHandler):
    """Sends the pieces that the request's body asks for: {"status", "events", "pause", "pieces", "end"}."""

    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline()
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        wanted = json.loads(self.rfile.read(length))
        status = wanted.get("status", 200)
        if status != 200:
            self.wfile.write(b"HTTP/1.1 %d No\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno" % status)
            return
        if wanted.get("plain"):  # the end of the connection is that of the answer
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + "".join(wanted["events"]).encode())
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in wanted["events"]:
            data = event.encode()
            data = b"%x\r\n" % len(data) + data + b"\r\n"
            cut = random.randrange(len(data) + 1)
            for part in (data[:cut], data[cut:]):
                try:
                    self.wfile.write(part)
                    self.wfile.flush()
                except OSError:
                    return
            time.sleep(wanted.get("pause", 0))
        if wanted.get("end", True):
            self.wfile.write(b"0\r\n\r\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128


def token(text):
    return 'data: {"choices":[{"text":%s}]}\n\n' % json.dumps(text)


USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = "data: [DONE]\n\n"


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()

    @classmethod
    def tearDownClass(cls):
        cls.server.shutdown()
        cls.server.server_close()

    def stream(self, body, **options):
        address = self.server.server_address
        return client.Stream(address, client.post(address, "/v1/completions", body), **options)

    def one(self, body, **options):
        return client.closed(lambda _: self.stream(body, **options), 1, 1)[0]

    def test_times_and_usage(self):
        record = self.one({"events": [": ping\n\n", token("a"), token("b"), USAGE, DONE], "pause": 0.02})
        self.assertTrue(record.ok, record)
        self.assertEqual(len(record.times), 2)
        self.assertGreaterEqual(record.first, 0.02)
        self.assertGreaterEqual(record.gaps[0], 0.015)
        self.assertEqual(record.tokens, 2)

    def test_an_event_in_pieces_and_several_in_one(self):
        events = token("a") + token("b") + token("c")
        record = self.one({"events": [events[:10], events[10:25], events[25:], USAGE + DONE]})
        self.assertTrue(record.ok, record)
        self.assertEqual(len(record.times), 3)

    def test_an_answer_that_is_read_at_its_end(self):
        body = {"events": [token("a"), token("b"), token("c"), USAGE, DONE], "pause": 0.02}
        for yields in (False, True):
            records = client.closed(lambda _: self.stream(body, times=False), 4, 8, yields=yields)
            self.assertTrue(all(record.ok for record in records), records[0])
            self.assertEqual([len(record.times) for record in records], [3] * 8)
            self.assertTrue(all(record.tokens == 2 for record in records))
            self.assertTrue(all(record.first >= 0.08 for record in records))
        refused = self.one({"status": 429}, times=False)
        self.assertEqual((refused.status, refused.retry_after), (429, "7"))

    def test_who_yields_is_a_thread_of_low_priority(self):
        seen = []

        def make(_):
            seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return self.stream({"events": [DONE]})

        before = os.getpriority(os.PRIO_PROCESS, 0)
        client.closed(make, 1, 1, yields=True)
        self.assertEqual(seen, [max(before, client.NICE)])
        self.assertEqual(os.getpriority(os.PRIO_PROCESS, 0), before)

    def test_refusal(self):
        record = self.one({"status": 429})
        self.assertEqual((record.ok, record.status, record.retry_after, record.text), (False, 429, "7", b"no"))

    def test_error_in_the_stream(self):
        record = self.one({"events": [token("a"), 'data: {"error": {"message": "broke"}}\n\n']})
        self.assertFalse(record.ok)
        self.assertIn("broke", record.error)

    def test_connection_that_ends_early(self):
        record = self.one({"events": [token("a")], "end": False})
        self.assertFalse(record.ok)
        self.assertIn("closed", record.error)

    def test_answer_that_ends_with_its_connection(self):
        record = self.one({"events": [token("a"), USAGE, DONE], "plain": True})
        self.assertTrue(record.ok, record)
        self.assertEqual(record.tokens, 2)

    def test_nobody_listens(self):
        stream = client.Stream(("127.0.0.1", 1), b"GET / HTTP/1.1\r\n\r\n")
        record = client.closed(lambda _: stream, 1, 1)[0]
        self.assertFalse(record.ok)
        self.assertTrue(record.error)

    def test_cuts(self):
        body = {"events": [token("a")] * 50, "pause": 0.02}
        after_events = self.one(body, cut_after=3)
        self.assertTrue(after_events.cut)
        self.assertGreaterEqual(len(after_events.times), 3)
        self.assertLess(len(after_events.times), 50)
        after_time = self.one(body, cut_after=0.1)
        self.assertTrue(after_time.cut)
        self.assertLess(after_time.end - after_time.start, 0.9)

    def test_closed_loop_keeps_so_many_running(self):
        body = {"events": [token("a"), USAGE, DONE], "pause": 0.05}
        records = client.closed(lambda _: self.stream(body), 4, 12)
        self.assertEqual(len(records), 12)
        self.assertTrue(all(record.ok for record in records))
        edges = sorted([(r.start, 1) for r in records] + [(r.end, -1) for r in records])
        running, most = 0, 0
        for _, change in edges:
            running += change
            most = max(most, running)
        self.assertEqual(most, 4)

    def test_open_loop_begins_on_time(self):
        body = {"events": [token("a"), USAGE, DONE], "pause": 0.05}
        began = time.monotonic()
        records = client.open_loop(lambda _: self.stream(body), [0, 0.05, 0.1, 0.3])
        starts = sorted(record.start - began for record in records)
        for start, wanted in zip(starts, [0, 0.05, 0.1, 0.3]):
            self.assertGreaterEqual(start, wanted)
            self.assertLess(start, wanted + 0.2)

    def test_deadline_ends_what_runs(self):
        body = {"events": [token("a")] * 100, "pause": 0.05}
        began = time.monotonic()
        records = client.closed(lambda _: self.stream(body), 2, 2, deadline=began + 0.3)
        self.assertLess(time.monotonic() - began, 2)
        self.assertTrue(all(record.cut for record in records))

    def test_quantile(self):
        self.assertEqual(client.quantile([3, 1, 2, 4], 0.5), 3)
        self.assertEqual(client.quantile(range(100), 0.99), 99)
        self.assertIsNone(client.quantile([], 0.5))


if __name__ == "__main__":
    unittest.main()
