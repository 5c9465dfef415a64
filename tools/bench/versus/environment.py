"""The public packages that the tools need, in a virtual environment of their own. Standard library only."""

import hashlib
import os
import pathlib
import subprocess
import sys

# llama-cpp-python 0.3.36 has llama.cpp 0c1e57098. The binding mirrors llama.cpp's structures field by field, which
# change often: another version may need changes to llama_worker.py.
PACKAGES = ["llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy>=2,<3", "matplotlib>=3.8,<4"]


def default_cache():
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "moec/llama-cpp"


def enter(cache, script, arguments):
    """Goes on in the environment's Python, which is made first where it does not exist. Returns inside it."""
    venv = pathlib.Path(cache).absolute() / "venv"
    if pathlib.Path(sys.prefix) == venv:
        return
    python = venv / "bin/python"
    ready = venv / ("ready-" + hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:16])
    if not ready.exists():
        install(venv, python)
        ready.touch()
    os.execv(python, [str(python), script, *arguments])


def install(venv, python):
    log = venv.parent / "install.log"
    print(f"installing {' '.join(PACKAGES)}\n  into {venv}; this builds llama.cpp and takes some minutes. Log: {log}",
          file=sys.stderr)
    venv.parent.mkdir(parents=True, exist_ok=True)
    # For this very processor, as a user who wants speed would. The part for images is not needed.
    options = os.environ.get("CMAKE_ARGS", "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF")
    environment = {**os.environ, "CMAKE_ARGS": options}
    with open(log, "w") as out:
        for command in (
            [sys.executable, "-m", "venv", str(venv)],
            [str(python), "-m", "pip", "install", "--no-binary", "llama-cpp-python", *PACKAGES],
        ):
            if subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode:
                sys.stderr.write("".join(log.read_text(errors="replace").splitlines(True)[-20:]))
                sys.exit(f"error: '{' '.join(command)}' failed; all that it said is in {log}. It needs python3-venv, "
                         "a C++ compiler and a network")
