"""How a server ends: no request that it took is lost, and who does not end in time is told."""

import signal
import threading
import time
import unittest

from serving import Answer, ProcessTest, wait_until

LONG = {"max_tokens": 900, "ignore_eos": True}  # some seconds, of many of them


class Drain(ProcessTest):
    def test_no_accepted_request_is_lost(self):
        server = self.serve("--drain-grace", 0.5).wait_healthy()
        answers, lock = [], threading.Lock()

        def load(number):
            while True:
                answer = Answer(server, stream=number % 2 == 0, max_tokens=40, ignore_eos=True).wait()
                with lock:
                    answers.append(answer)
                if answer.broken:
                    return
        clients = [threading.Thread(target=load, args=(number,)) for number in range(12)]
        for client in clients:
            client.start()
        wait_until(lambda: len(answers) > 30, "load")
        server.signal(signal.SIGTERM)
        for client in clients:
            client.join()
        self.assertEqual(server.status(), 0)
        for answer in answers:
            if answer.status == 200:
                self.assertTrue(answer.whole(), (answer.broken, answer.error))
            elif answer.status is not None:
                self.assertEqual(answer.status, 503)
                self.assertIn("stopping", answer.error["message"].replace("about to end", "stopping"))
        self.assertTrue(any(answer.status == 503 for answer in answers), "nothing came in the time of grace")
        self.assertFalse(server.said("cut"))

    def test_streams_that_run_go_on_to_their_end(self):
        server = self.serve("--drain-grace", 0).wait_healthy()
        answers = [Answer(server, max_tokens=300, ignore_eos=True) for _ in range(8)]
        wait_until(lambda: all(answer.events for answer in answers), "the first event of each")
        server.signal(signal.SIGTERM)
        for answer in answers:
            self.assertTrue(answer.wait().whole(), (answer.broken, answer.error))
        self.assertEqual(server.status(), 0)

    def test_what_does_not_end_in_time_is_told(self):
        # Two run, the others wait.
        server = self.serve("--drain-grace", 0, "--drain-seconds", 0.3, "--max-sequences", 2).wait_healthy()
        answers = [Answer(server, stream=number % 2 == 0, **LONG) for number in range(40)]
        wait_until(lambda: any(answer.events for answer in answers), "a first event")
        time.sleep(0.2)  # so that all are there
        server.signal(signal.SIGTERM)
        cut = 0
        for answer in answers:
            answer.wait()
            self.assertIsNone(answer.broken)
            if answer.whole():
                continue
            cut += 1
            self.assertIn("stopping", answer.error["message"])
            self.assertEqual(answer.error["type"], "service_unavailable_error")
            if not (answer.stream and answer.events > 1):
                self.assertIn(answer.status, (200, 503))
            if not answer.stream:
                self.assertEqual(answer.status, 503)
        self.assertGreater(cut, 20)
        self.assertEqual(server.status(), 0)
        self.assertEqual(len(server.said("requests are cut: they did not end in 0.3 s")), 1)

    def test_a_second_signal_ends_at_once(self):
        server = self.serve().wait_healthy()
        answers = [Answer(server, **LONG) for _ in range(8)]
        wait_until(lambda: answers[0].events, "a first event")
        server.signal(signal.SIGTERM)
        wait_until(lambda: server.said("draining"), "the drain")
        server.signal(signal.SIGINT)
        self.assertEqual(server.status(), 128 + signal.SIGINT)
        self.assertTrue(any(not answer.wait().done for answer in answers))

    def test_half_a_request_holds_nothing_up(self):
        server = self.serve("--drain-grace", 0).wait_healthy()
        half = server.connect()
        half.connect()
        half.sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        began = time.monotonic()
        self.assertEqual(server.terminate(), 0)
        self.assertLess(time.monotonic() - began, 10)  # --body-seconds is 60
        half.close()


if __name__ == "__main__":
    unittest.main()
