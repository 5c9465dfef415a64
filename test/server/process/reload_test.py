"""Plans are read again while requests run, and several are served by one process."""

import json
import os
import select
import shutil
import signal
import socket
import threading
import unittest

from serving import Answer, PLAN, ProcessTest, UnixConnection, wait_until


class Reload(ProcessTest):
    def setUp(self):
        super().setUp()
        self.plan = self.folder / "model.plan"
        self.admin = str(self.folder / "admin")
        shutil.copyfile(PLAN, self.plan)
        self.server = self.serve("--admin-socket", self.admin, plans=[self.plan]).wait_healthy()

    def replace(self, content):
        """As who deploys a plan does: the old file stays as it is for who has it open."""
        new = self.folder / "new"
        new.write_bytes(content)
        os.replace(new, self.plan)

    def reload(self):
        return self.server.ask("POST", "/admin/reload", connection=UnixConnection(self.admin))[0]

    def loads(self):
        return len(self.server.said(" s on cpu:"))

    def test_no_stream_is_dropped(self):
        stop, answers = threading.Event(), []

        def load():
            while not stop.is_set():
                answers.append(Answer(self.server, max_tokens=100, ignore_eos=True, seed=1, temperature=1).wait())
        clients = [threading.Thread(target=load) for _ in range(6)]
        for client in clients:
            client.start()
        try:
            wait_until(lambda: len(answers) >= 6, "load")
            self.assertEqual(self.reload(), 202)
            wait_until(lambda: self.loads() == 2, "the reload that was asked for")
            self.server.signal(signal.SIGHUP)
            wait_until(lambda: self.loads() == 3, "the reload of the signal")
            good = self.plan.read_bytes()
            self.replace(good[:1000] + bytes(len(good) - 1000))
            self.server.signal(signal.SIGHUP)
            wait_until(lambda: self.server.said("error: "), "the refusal of a damaged plan")
            self.assertEqual(self.server.get("/health")[0], 200)
            self.replace(good)
            before = len(answers)
            self.assertEqual(self.reload(), 202)
            wait_until(lambda: self.loads() == 4 and len(answers) > before + 6, "the last reload")
        finally:
            stop.set()
            for client in clients:
                client.join()
        for answer in answers:
            self.assertTrue(answer.whole(), (answer.status, answer.broken, answer.error))
        self.assertEqual(len({answer.text for answer in answers}), 1)  # the same seed, the same text
        self.assertEqual(len(self.server.said("error: ")), 1)
        self.assertEqual(self.server.terminate(), 0)

    def test_what_is_being_read_is_answered(self):
        """A request that has found its model, and is submitted after another one has taken its place."""
        def begin(**form):
            connection = self.server.connect()
            connection.request("POST", "/v1/completions",
                               json.dumps({"prompt": "x", "max_tokens": 4, "structured_outputs": form}),
                               {"Content-Type": "application/json"})
            self.addCleanup(connection.close)
            return connection
        properties = {str(number): {"type": "string"} for number in range(2000)}
        slow = begin(json={"type": "object", "properties": properties})  # keeps the compiler of grammars for seconds
        waiting = begin(choice=["yes", "no"])
        for _ in range(2):  # bodies are read one after another: then both have been
            self.assertEqual(self.server.ask("POST", "/tokenize", {"prompt": "x"})[0], 200)
        self.server.signal(signal.SIGHUP)
        wait_until(lambda: self.loads() == 2, "the reload")
        self.assertEqual(select.select([slow.sock, waiting.sock], [], [], 0)[0], [], "the reload came too late to test")
        answer = waiting.getresponse()
        body = answer.read()
        self.assertEqual(answer.status, 200, body)
        self.assertIn(json.loads(body)["choices"][0]["text"], ("yes", "no"))
        self.assertIn(slow.getresponse().status, (200, 400))  # compiled in time, or not
        self.assertEqual(self.server.terminate(), 0)

    def test_the_admin_socket_is_the_owners(self):
        self.assertEqual(os.stat(self.admin).st_mode & 0o777, 0o600)
        self.assertIn(self.server.ask("POST", "/admin/reload")[0], (404, 405))  # not over TCP
        for method, path in (("GET", "/admin/reload"), ("POST", "/v1/completions"), ("GET", "/health")):
            self.assertEqual(self.server.ask(method, path, connection=UnixConnection(self.admin))[0], 404)
        self.assertEqual(self.server.ask("POST", "/admin/drain", connection=UnixConnection(self.admin))[0], 202)
        self.assertEqual(self.server.status(), 0)
        self.assertFalse(os.path.exists(self.admin))


class SeveralPlans(ProcessTest):
    def test_each_has_its_name(self):
        server = self.serve("--alias", "gpt-4o=second", "--alias", "other=second",
                            plans=[f"first={PLAN}", f"second={PLAN}"]).wait_healthy()
        models = [model["id"] for model in json.loads(server.get("/v1/models")[2])["data"]]
        self.assertEqual(models, ["first", "second", "gpt-4o", "other"])
        for name in models:
            self.assertTrue(server.complete(model=name, max_tokens=4)["choices"][0]["text"])
        status, _, body = server.ask("POST", "/v1/completions", {"model": "third", "prompt": "x"})
        self.assertEqual(status, 404)
        self.assertEqual(json.loads(body)["error"]["code"], "model_not_found")
        figures = server.get("/metrics")[2].splitlines()
        for name, tokens in (("first", 4), ("second", 12)):
            self.assertIn(f'vllm:generation_tokens_total{{model_name="{name}",engine="0"}} {tokens}.0', figures)

    def test_all_publish_at_one_address_and_can_be_replaced(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        server = self.serve("--kv-events", endpoint, plans=[f"first={PLAN}", f"second={PLAN}"])
        if server.said("built without ZeroMQ"):
            self.skipTest("moe-serve was built without ZeroMQ")
        server.wait_healthy()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.said("model '")) == 4, "both plans again")
        self.assertEqual(server.said("error: "), [])
        self.assertEqual(server.terminate(), 0)


if __name__ == "__main__":
    unittest.main()
