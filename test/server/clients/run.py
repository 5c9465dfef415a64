#!/usr/bin/env python3
"""run.py MOEC MOE_SERVE CHECKPOINT FOLDER: serves a checkpoint and lets the public clients use it.

Their packages are those of requirements.txt, in a virtual environment in ~/.cache/moec. Status 77, which CTest shows as
skipped, where they cannot be installed: there is no network.
"""

import hashlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77


def environment():
    """The path of the environment's Python."""
    requirements = HERE / "requirements.txt"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    venv = cache / "moec" / f"clients-{digest}"
    python = venv / "bin/python"
    if (venv / "ready").exists():
        return python
    shutil.rmtree(venv, ignore_errors=True)
    venv.parent.mkdir(parents=True, exist_ok=True)
    for command in ([sys.executable, "-m", "venv", venv],
                    [python, "-m", "pip", "install", "-q", "--no-deps", "-r", requirements]):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            print(f"skipped: '{' '.join(map(str, command))}' failed: {done.stderr.strip()[-500:]}")
            sys.exit(SKIPPED)
    (venv / "ready").touch()
    return python


def main():
    moec, serve, checkpoint, folder = map(pathlib.Path, sys.argv[1:])
    python = environment()
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "cria.plan"
    subprocess.run([str(moec), "compile", str(checkpoint), "-o", str(plan), "--target", "cpu:native"], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([str(serve), str(plan), "--port", str(port)])
    try:
        for _ in range(500):
            try:
                urllib.request.urlopen(url + "/health").close()
                break
            except OSError:
                time.sleep(0.02)
        tests = subprocess.run([str(python), str(HERE / "clients.py"), "-v"],
                               env={**os.environ, "MOE_SERVE_URL": url, "MOE_SERVE_MODEL": "cria",
                                    "LITELLM_LOCAL_MODEL_COST_MAP": "True"}).returncode
    finally:
        server.terminate()
        status = server.wait(60)
    if status:
        print(f"moe-serve ended with status {status}")
    events = subprocess.run([str(python), str(HERE / "kv_events.py"), "-v"],
                            env={**os.environ, "MOE_SERVE": str(serve), "MOE_SERVE_PLAN": str(plan)}).returncode
    return tests or status or events


if __name__ == "__main__":
    sys.exit(main())
