# How lit runs the .mlir and .test files: lit-22 -v test [--param build=build/release] [--filter passes/]
import importlib.util
import os
import platform
import shutil
import sys

import lit.formats

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
build = os.path.abspath(lit_config.params.get("build", os.path.join(root, "build/release")))
runtime_for_aarch64 = os.path.join(build, "aarch64/bin/moe-run")

config.name = "moec"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.test_source_root = os.path.join(root, "test")
config.test_exec_root = os.path.join(build, "test")

config.environment["PATH"] = os.pathsep.join(
    [os.path.join(build, "bin"), "/usr/lib/llvm-22/bin", os.environ["PATH"]])
for name in ("MOE_LLAMA4_TOKENIZER", "HOME", "ASAN_OPTIONS", "UBSAN_OPTIONS"):
    if name in os.environ:
        config.environment[name] = os.environ[name]

# Beside lit's own: %s the test, %S its folder, %t a name for its files, which no other test has.
config.substitutions += [
    ("%python", sys.executable),
    ("%make_checkpoint", os.path.join(root, "test/tools/make-checkpoint.py")),
    ("%cria", os.path.join(root, "models/cria")),
    ("%configs", os.path.join(root, "models/configs")),
    ("%root", root),
    ("%bin", os.path.join(build, "bin")),
    ("%run_on_aarch64", f"qemu-aarch64 -L /usr/aarch64-linux-gnu {runtime_for_aarch64}"),
]

# For REQUIRES: the processor's family and each of its features, as /proc/cpuinfo names them.
config.available_features.add("x86" if platform.machine() == "x86_64" else platform.machine())
with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
    for line in file:
        if line.startswith(("flags", "Features")):
            config.available_features.update(line.split(":")[1].split())
            break
if os.path.exists(os.path.join(build, "bin", "moe-serve")):
    config.available_features.add("server")
if shutil.which("qemu-aarch64") and os.path.exists(runtime_for_aarch64):
    config.available_features.add("qemu-aarch64")
if importlib.util.find_spec("jinja2"):
    config.available_features.add("jinja2")
if "MOE_LLAMA4_TOKENIZER" in config.environment:
    config.available_features.add("llama4-tokenizer")
