"""The chat page with its policy, beside a model that says what a test gives it."""

import http.server
import importlib.util
import json
import pathlib
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGE = (ROOT / "runtime/server/page/chat.html").read_bytes()


def policy():
    spec = importlib.util.spec_from_file_location("embed_page", ROOT / "tools/cmake/embed-page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.policy(PAGE)


class Scripted:
    """`pieces` is the text of the next answers, `asked` the body of the last request, `pause` the seconds between pieces.

    `stopped` is set when the page ends an answer. `ends` says how an answer ends: "stop", "cut" (the connection closes in its midst) or "error" (an error event).
    """

    def __init__(self):
        self.pieces, self.pause, self.ends, self.asked, self.stopped = [], 0, "stop", None, False
        script = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def reply(self, kind, body, headers=()):
                self.send_response(200)
                for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *headers):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if self.path == "/":
                    self.reply("text/html; charset=utf-8", PAGE, [("Content-Security-Policy", policy())])
                else:
                    self.reply("application/json", json.dumps({"data": [{"id": "scripted"}, {"id": "other"}]}).encode())

            def event(self, **fields):
                self.wfile.write(f"data: {json.dumps(fields)}\n\n".encode())
                self.wfile.flush()

            def do_POST(self):
                script.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for piece in script.pieces:
                        self.event(choices=[{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
                        time.sleep(script.pause)
                    if script.ends == "error":
                        self.event(error={"message": "the device has failed", "type": "server_error"})
                    elif script.ends == "stop":
                        self.event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
                        self.event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": len(script.pieces)})
                        self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    script.stopped = True

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
