"""moe-serve batch: a file of requests, through interruptions."""

import json
import signal
import subprocess
import unittest

from serving import PLAN, ProcessTest, SERVE, wait_until


class Batch(ProcessTest):
    def setUp(self):
        super().setUp()
        self.input = self.folder / "in.jsonl"

    def write(self, lines):
        self.input.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def write_completions(self, count, tokens=150):
        self.write({"custom_id": f"request-{number}", "method": "POST", "url": "/v1/completions",
                    "body": {"prompt": f"Chapter {number}.", "max_tokens": tokens, "ignore_eos": True,
                             "temperature": 1, "seed": number}} for number in range(count))

    def command(self, output, *more):
        return [SERVE, "batch", str(self.input), "-o", str(output), "--max-sequences", "4", *more, PLAN]

    def work(self, output, *more):
        return subprocess.run(self.command(output, *more), stderr=subprocess.PIPE, text=True, timeout=120)

    def answers(self, output):
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        answers = {line["custom_id"]: line for line in lines}
        self.assertEqual(len(answers), len(lines))  # each once
        return answers

    def texts(self, output):
        return {name: line["response"]["body"]["choices"][0]["text"] for name, line in self.answers(output).items()}

    def test_it_goes_on_after_interruptions(self):
        self.write_completions(60)
        whole, parts = self.folder / "whole.jsonl", self.folder / "parts.jsonl"
        done = self.work(whole)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"60 of 60 requests answered, 0 refused, 0 were there already; .* tokens/s\n$")
        for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
            before = len(parts.read_text().splitlines()) if parts.exists() else 0
            process = subprocess.Popen(self.command(parts), stderr=subprocess.PIPE, text=True)
            wait_until(lambda: parts.exists() and parts.read_text().count("\n") > before, "an answer")
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, -number if number == signal.SIGKILL else 128 + number, said)
            if number != signal.SIGKILL:
                self.assertIn("interrupted; the same command goes on", said)
        with parts.open("a") as file:  # as a machine leaves it that loses power
            file.write('{"id":"batch_req_1","custom_id":"request-59","resp')
        done = self.work(parts)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn(" 0 were there already", done.stderr)
        self.assertEqual(self.texts(parts), self.texts(whole))
        content = parts.read_text()
        self.assertIn("0 of 60 requests answered, 0 refused, 60 were there already", self.work(parts).stderr)
        self.assertEqual(parts.read_text(), content)

    def test_each_kind_of_request(self):
        chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        self.write([{"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": chat},
                    {"custom_id": "named", "method": "POST", "url": "/v1/completions",
                     "body": {"model": "other", "prompt": "x", "max_tokens": 2}},
                    {"custom_id": "wrong", "method": "POST", "url": "/v1/completions", "body": {"prompt": 7.5}},
                    {"custom_id": "nobody", "method": "POST", "url": "/v1/completions",
                     "body": {"model": "nobody", "prompt": "x"}}])
        output = self.folder / "out.jsonl"
        done = self.work(output, f"first={PLAN}", "--alias", "other=first")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("2 of 4 requests answered, 2 refused", done.stderr)
        answers = self.answers(output)
        self.assertEqual({name: answers[name]["response"]["status_code"] for name in answers},
                         {"chat": 200, "named": 200, "wrong": 400, "nobody": 404})
        self.assertEqual(answers["chat"]["response"]["body"]["choices"][0]["message"]["role"], "assistant")

    def test_refusals(self):
        output = self.folder / "out.jsonl"

        def refused(*command):
            done = subprocess.run([SERVE, "batch", *map(str, command)], stderr=subprocess.PIPE, text=True, timeout=60)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            return done.stderr
        self.assertIn("in.jsonl", refused(self.input, "-o", output, PLAN))
        self.input.write_text('{"custom_id":"a","url":"/v1/completions","body":{}}\nnonsense\n')
        self.assertIn("line 2", refused(self.input, "-o", output, PLAN))
        self.assertFalse(output.exists())
        self.write_completions(1)
        before = self.input.read_text()
        self.assertIn("same file", refused(self.input, "-o", self.input, PLAN))
        self.assertEqual(self.input.read_text(), before)
        self.assertIn("none.plan", refused(self.input, "-o", output, self.folder / "none.plan"))
        self.assertIn("/none/", refused(self.input, "-o", self.folder / "none/out", PLAN))


if __name__ == "__main__":
    unittest.main()
