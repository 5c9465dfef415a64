"""HTTPS, with a certificate that the program openssl makes."""

import http.client
import shutil
import ssl
import subprocess
import sys
import unittest

from serving import Answer, PLAN, PATIENCE, ProcessTest, SKIPPED, Server


class TlsServer(Server):
    trust = None

    def connect(self):
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=self.trust)


class Tls(ProcessTest):
    def setUp(self):
        super().setUp()
        self.certificate, self.key = self.folder / "certificate.pem", self.folder / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "1",
                        "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", self.key, "-out", self.certificate],
                       check=True, capture_output=True)

    def test_answers(self):
        server = TlsServer("--tls-certificate", self.certificate, "--tls-key", self.key)
        self.addCleanup(server.__exit__)
        self.assertTrue(server.said("listening at https://127.0.0.1:"))
        server.trust = ssl.create_default_context(cafile=str(self.certificate))
        server.wait_healthy()
        self.assertTrue(server.complete(max_tokens=4)["choices"][0]["text"])
        self.assertTrue(Answer(server, max_tokens=200, ignore_eos=True).wait().whole())
        clear = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        status, _, said = server.get("/health", connection=clear)
        self.assertEqual(status, 400)
        self.assertIn("https", said)
        stranger = ssl.create_default_context()
        with self.assertRaises(ssl.SSLCertVerificationError):
            server.get("/health", connection=http.client.HTTPSConnection("127.0.0.1", server.port, timeout=PATIENCE,
                                                                         context=stranger))
        self.assertEqual(server.terminate(), 0)

    def test_refusals(self):
        other = self.folder / "other.pem"
        other.write_text("nothing\n")
        for files in (["--tls-certificate", self.certificate], ["--tls-key", self.key],
                      ["--tls-certificate", other, "--tls-key", self.key],
                      ["--tls-certificate", self.certificate, "--tls-key", other],
                      ["--tls-certificate", self.certificate, "--tls-key", self.folder / "none"]):
            status, said = self.run_to_the_end("--port", 0, *files, PLAN)
            self.assertEqual(status, 1)
            self.assertEqual(len(said.splitlines()), 1, said)
            self.assertTrue(said.startswith("moe-serve: error: "), said)


if __name__ == "__main__":
    if not shutil.which("openssl"):
        print("skipped: there is no program openssl")
        sys.exit(SKIPPED)
    unittest.main()
