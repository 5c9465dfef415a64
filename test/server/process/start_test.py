"""How a server starts, and what it says where it cannot."""

import pathlib
import signal
import socket
import unittest

from serving import PLAN, ProcessTest


class Start(ProcessTest):
    def test_health_says_when_it_is_loaded(self):
        names = [f"n{number}={PLAN}" for number in range(12)]  # which takes a moment
        server = self.serve("--max-sequences", 1, "--context", 256, plans=names)
        status, headers, body = server.get("/health")
        self.assertEqual(status, 503)
        self.assertIn("loaded", body)
        self.assertIn("Retry-After", headers)
        self.assertEqual(server.ask("POST", "/v1/completions", {"prompt": "x"})[0], 503)
        self.assertEqual(server.get("/live")[0], 200)
        server.wait_healthy()
        self.assertEqual(len(server.said("model 'n")), 12)
        self.assertEqual(server.terminate(), 0)

    def test_a_service_manager_is_told(self):
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.settimeout(60)
        path = str(self.folder / "notify")
        manager.bind(path)
        server = self.serve(env={"NOTIFY_SOCKET": path})
        self.assertEqual(manager.recv(4096), b"READY=1\nSTATUS=serving")
        self.assertEqual(server.get("/health")[0], 200)
        server.signal(signal.SIGHUP)
        self.assertRegex(manager.recv(4096), rb"^RELOADING=1\nMONOTONIC_USEC=\d+$")
        self.assertEqual(manager.recv(4096), b"READY=1\nSTATUS=serving")
        server.signal(signal.SIGTERM)
        self.assertEqual(manager.recv(4096), b"STOPPING=1")
        self.assertEqual(server.status(), 0)


class Refusals(ProcessTest):
    def refused(self, status, *arguments):
        ended, said = self.run_to_the_end(*arguments, *([] if "--port" in arguments else ["--port", 0]))
        lines = [line for line in said.splitlines() if "error: " in line]
        self.assertEqual(ended, status, said)
        self.assertEqual(len(lines), 1, said)
        self.assertTrue(lines[0].startswith("moe-serve: error: "), said)
        self.assertEqual(said.splitlines()[-1], lines[0])
        return lines[0]

    def test_plans(self):
        self.assertIn("none.plan", self.refused(1, self.folder / "none.plan"))
        damaged = self.folder / "damaged.plan"
        whole = pathlib.Path(PLAN).read_bytes()
        for content in (b"", b"GGUF", whole[:100000], whole[:64] + bytes(4096) + whole[4160:-1] + b"x"):
            damaged.write_bytes(content)
            self.assertIn("damaged.plan", self.refused(1, damaged))
        self.assertIn("two plans have the name", self.refused(1, PLAN, PLAN))
        self.assertIn("expected ALIAS=NAME", self.refused(1, PLAN, "--alias", "x=none"))

    def test_a_port_that_is_taken(self):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            self.assertIn(str(port), self.refused(1, PLAN, "--port", port))

    def test_sizes(self):
        self.assertIn("KV cache", self.refused(1, PLAN, "--kv-memory", "1K"))
        self.assertIn("context", self.refused(1, PLAN, "--context", 1 << 30))

    def test_options(self):
        for arguments in ([], ["--nonsense", PLAN], [PLAN, "--kv-memory", "lots"], [PLAN, "--context", 0],
                          [PLAN, "--max-sequences", "many"], [PLAN, "--sampling", "vllm"], [PLAN, "--port", 65536],
                          [PLAN, "--drain-seconds", -1], [PLAN, "--idle-seconds", "nan"], [PLAN, "--itl-stretch", 0.5],
                          ["batch"], ["batch", "in", PLAN], ["batch", "in", "-o", "out"]):
            with self.subTest(arguments):
                self.refused(2, *arguments) if arguments[:1] != ["batch"] else self.batch_refused(arguments)
        for arguments in ([PLAN, "--tls-key", "x"], [PLAN, "--host", "no such host"],
                          [PLAN, "--device", "tpu"], [PLAN, "--admin-socket", self.folder]):
            with self.subTest(arguments):
                self.refused(1, *arguments)
        for option in ("--help", "--version"):
            status, said = self.run_to_the_end(option)
            self.assertEqual((status, said), (0, ""))

    def batch_refused(self, arguments):
        status, said = self.run_to_the_end(*arguments)
        self.assertEqual(status, 2, said)
        self.assertEqual(len(said.splitlines()), 1, said)


if __name__ == "__main__":
    unittest.main()
