#!/usr/bin/env python3
"""Checks who includes whom, and header guards.

  check-layers.py [ROOT]        check the repository, one line "file:line: message" per finding
  check-layers.py --self-test   check that each rule fires, on a tree made for it
"""
import os
import re
import sys
import tempfile

# Libraries outside the repository, by the start of what is included. All else in <> is C, C++ or the system.
LIBRARIES = [
    ("mlir/", "MLIR"), ("mlir-c/", "MLIR"), ("llvm/", "LLVM"), ("llvm-c/", "LLVM"), ("lld/", "LLVM"),
    ("flatbuffers/", "flatbuffers"), ("xxhash.h", "xxhash"), ("CLI/", "CLI11"),
    ("zmq.h", "ZeroMQ"), ("boost/", "Boost"), ("openssl/", "OpenSSL"), ("nlohmann/", "nlohmann"),
    ("xgrammar/", "xgrammar"), ("picojson.h", "xgrammar"),  # which brings picojson along
    ("gtest/", "gtest"), ("gmock/", "gtest"),
]

# Folder or file: what it may include besides itself. The longest matching entry counts. An entry of
# the right side is a library above, a folder (with a slash at its end) or a file; after a ! what it
# may not include although it lies in such a folder.
STATUS = "runtime/Status.h"
WEIGHTS = "runtime/weights/"  # formats and layouts of weights
SCHEMA = "runtime/plan/Plan_generated.h"
FORMAT = "runtime/plan/Format.h"  # the header of a plan file, for its reader and its writer
VERIFIER = "runtime/plan/Check.h"  # the writer checks what it wrote, as the reader will
IMAGE = "compiler/targets/CodeImage.h"
RULES = {
    "runtime/": [],
    "runtime/weights/": [STATUS],
    "runtime/plan/": [STATUS, WEIGHTS, "flatbuffers", "xxhash"],
    "runtime/text/": [STATUS],
    "runtime/vision/": [STATUS],
    "runtime/device/": [STATUS],
    "runtime/device/cpu/": [STATUS, "runtime/device/*"],
    "runtime/device/cuda/": [STATUS, "runtime/device/*"],
    "runtime/device/null/": [STATUS, "runtime/device/*"],
    "runtime/device/ptxsim/": [STATUS, "runtime/device/*", "runtime/device/cuda/DriverApi.h"],
    "runtime/session/": ["runtime/"],
    "runtime/server/": ["runtime/", "!runtime/server/api/", "!runtime/server/http/"],
    "runtime/server/GrammarSchema.cpp": [STATUS, "runtime/server/GrammarSchema.h", "xgrammar"],
    "runtime/server/GrammarXgrammar.cpp": [STATUS, "runtime/text/", "runtime/server/*", "xgrammar"],
    "runtime/server/KvEventsZmq.cpp": ["runtime/server/KvEvents.h", "ZeroMQ"],
    "runtime/server/http/": [STATUS, "Boost", "OpenSSL"],
    "runtime/server/http/Server.h": [STATUS],
    "runtime/server/api/": [STATUS, "runtime/text/", "runtime/server/*", "runtime/server/http/Server.h"],
    "runtime/server/api/Json.cpp": ["runtime/server/api/", "runtime/text/Utf8.h", "nlohmann"],
    "runtime/moe.cpp": ["runtime/"],  # the C interface
    "dialects/": [STATUS, WEIGHTS, "MLIR", "LLVM"],
    "dialects/moe/MoeReference.h": [],
    "dialects/moe/MoeReference.cpp": ["dialects/moe/MoeReference.h", "dialects/moe/ReferenceRows.h"],
    "dialects/moe/ReferenceRows.h": ["dialects/moe/MoeReference.h"],
    "dialects/moe/VisionReference.h": ["dialects/moe/MoeReference.h"],
    "dialects/moe/VisionReference.cpp": ["dialects/moe/VisionReference.h", "dialects/moe/ReferenceRows.h"],
    "passes/": ["dialects/", WEIGHTS, "MLIR", "LLVM"],
    "compiler/": ["passes/", "dialects/", WEIGHTS, "MLIR", "LLVM"],
    "compiler/import/": ["dialects/", WEIGHTS, "MLIR", "LLVM", "runtime/text/"],  # tables that the runtime's tokenizer reads
    "compiler/targets/": ["compiler/kernels/", "passes/TargetFormats.h", "dialects/", WEIGHTS, "MLIR", "LLVM"],
    "compiler/kernels/": ["compiler/targets/", "dialects/", WEIGHTS, "MLIR", "LLVM"],
    "compiler/plan/": ["dialects/", WEIGHTS, "MLIR", "LLVM", IMAGE, SCHEMA, FORMAT, VERIFIER, "flatbuffers", "xxhash"],
}
CHECKED = ("runtime/", "dialects/", "passes/", "compiler/")
ALL = CHECKED + ("tools/", "test/")
INCLUDE = re.compile(r'\s*#\s*include\s*(<[^>]*>|"[^"]*")')


def ruleOf(path):
    return max((key for key in RULES if path == key or key.endswith("/") and path.startswith(key)), key=len)


def allows(entry, target):
    if entry.endswith("/*"):  # the files right inside a folder
        return os.path.dirname(target) == entry[:-2]
    return target == entry or entry.endswith("/") and target.startswith(entry)


def complaint(path, spelling):
    """What is wrong with `spelling` ("..." or <...>) in the file `path`, or None."""
    target, quoted = spelling[1:-1], spelling[0] == '"'
    library = next((name for start, name in LIBRARIES if target.startswith(start)), None)
    if library is None:
        if not target.startswith(ALL):
            return f"{spelling}: an include of ours starts at the root of the repository" if quoted else None
        if not quoted:
            return f"{spelling}: an include of ours takes quotes"
        if not target.startswith(CHECKED):
            return f"{spelling}: nothing includes {target.split('/')[0]}/"
    if re.search(r"(Test|Fuzz)\.cpp$|/Test\w+\.(h|cpp)$", path):  # tests link what they like, but the runtime's build without MLIR
        return f"{spelling}: tests of the runtime build without {library}" \
            if path.startswith("runtime/") and library in ("MLIR", "LLVM") else None
    rule = ruleOf(path)
    own = rule if rule.endswith("/") else path
    if any(entry[0] == "!" and allows(entry[1:], target) for entry in RULES[rule]):
        return f"{spelling}: {rule} may not include it"
    if library is None and target.startswith(own) or library in RULES[rule]:
        return None
    if library is None and any(allows(entry, target) for entry in RULES[rule]):
        return None
    return f"{spelling}: {rule} may include itself and " + (", ".join(RULES[rule]) or "the C++ library alone")


def checkFile(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        lines = file.read().splitlines()
    findings = []
    if path.startswith(CHECKED):
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            message = match and complaint(path, match[1])
            if message:
                findings.append(f"{path}:{number}: {message}")
    if path.endswith(".h"):
        guard = "MOE_" + re.sub(r"[^A-Z0-9]", "_", path.upper())
        directives = [(n, l.split()) for n, l in enumerate(lines, 1) if l.startswith("#")]
        found = [words[:2] for _, words in directives[:2]]
        if found != [["#ifndef", guard], ["#define", guard]]:
            findings.append(f"{path}:{directives[0][0] if directives else 1}: the header guard should be {guard}")
    return findings


def check(root):
    findings = []
    for top in ALL:
        for folder, folders, files in os.walk(os.path.join(root, top)):
            folders.sort()
            for name in sorted(files):
                if name.endswith((".h", ".c", ".cpp", ".inc", ".def")):
                    findings += checkFile(root, os.path.relpath(os.path.join(folder, name), root))
    return findings


def selfTest():
    # Path, includes, and the line that must be complained about (0: none).
    cases = [
        ("runtime/plan/A.cpp", ['"runtime/plan/Plan.h"', '"runtime/Status.h"', "<flatbuffers/base.h>", "<vector>"], 0),
        ("runtime/plan/B.cpp", ["<vector>", '"runtime/text/Tokenizer.h"'], 2),
        ("runtime/plan/C.cpp", ['"Plan.h"'], 1),
        ("runtime/plan/D.cpp", ["<runtime/plan/Plan.h>"], 1),
        ("runtime/plan/PlanTest.cpp", ["<gtest/gtest.h>", '"dialects/moe/MoeReference.h"'], 0),
        ("runtime/plan/BadTest.cpp", ["<gtest/gtest.h>", '"mlir/IR/Builders.h"'], 2),
        ("runtime/weights/A.cpp", ['"runtime/weights/Format.h"', '"runtime/Status.h"', '"runtime/plan/Plan.h"'], 3),
        ("dialects/moe/B.cpp", ['"runtime/weights/Format.h"', '"runtime/plan/Plan.h"'], 2),
        ("runtime/text/A.cpp", ["<flatbuffers/base.h>"], 1),
        ("runtime/device/Devices.cpp", ['"runtime/device/cpu/CpuDevice.h"', '"runtime/device/cuda/CudaDevice.h"'], 0),
        ("runtime/device/B.cpp", ['"runtime/plan/Plan.h"'], 1),
        ("runtime/device/cpu/A.cpp", ['"runtime/device/Device.h"', '"runtime/device/cuda/DriverApi.h"'], 2),
        ("runtime/device/ptxsim/A.cpp", ['"runtime/device/cuda/DriverApi.h"', '"runtime/device/cuda/CudaDevice.h"'], 2),
        ("runtime/session/A.cpp", ['"runtime/plan/Plan.h"', '"runtime/device/Device.h"', "<llvm/ADT/APInt.h>"], 3),
        ("runtime/session/B.cpp", ["<string>", "<CLI/CLI.hpp>"], 2),
        ("runtime/server/A.cpp", ['"runtime/session/Session.h"', '"runtime/server/Request.h"', '"runtime/server/http/Server.h"'], 3),
        ("runtime/server/GrammarXgrammar.cpp", ['"runtime/server/Grammar.h"', "<xgrammar/xgrammar.h>", '"runtime/session/Session.h"'], 3),
        ("runtime/server/Grammar.cpp", ['"runtime/server/Grammar.h"', "<xgrammar/xgrammar.h>"], 2),
        ("runtime/server/KvEvents.cpp", ["<zmq.h>"], 1),
        ("runtime/server/KvEventsZmq.cpp", ['"runtime/server/KvEvents.h"', "<zmq.h>", '"runtime/server/Engine.h"'], 3),
        ("runtime/server/B.cpp", ["<boost/asio/post.hpp>"], 1),
        ("runtime/server/api/A.cpp", ['"runtime/server/Request.h"', '"runtime/text/ToolCalls.h"', '"runtime/server/http/Server.h"', '"runtime/session/Session.h"'], 4),
        ("runtime/server/api/B.cpp", ["<nlohmann/json.hpp>"], 1),
        ("runtime/server/api/Json.cpp", ['"runtime/server/api/Json.h"', "<nlohmann/json.hpp>", '"runtime/server/http/Server.h"'], 3),
        ("runtime/server/http/A.cpp", ['"runtime/server/http/Server.h"', "<boost/asio/post.hpp>", "<openssl/ssl.h>", '"runtime/server/Request.h"'], 4),
        ("dialects/moe/A.cpp", ['"mlir/IR/Builders.h"', '"dialects/moe/MoeOps.h.inc"', '"passes/Passes.h"'], 3),
        ("dialects/moe/MoeReference.cpp", ['"dialects/moe/MoeReference.h"', "<span>", '"dialects/moe/MoeOps.h"'], 3),
        ("passes/A.cpp", ['"dialects/moe/MoeOps.h"', '"compiler/Compiler.h"'], 2),
        ("compiler/import/A.cpp", ['"dialects/moe/MoeOps.h"', '"compiler/targets/Builder.h"'], 2),
        ("compiler/targets/A.cpp", ['"compiler/targets/Builder.h"', '"runtime/plan/Plan_generated.h"'], 2),
        ("compiler/targets/TestA.cpp", ["<gtest/gtest.h>", '"passes/Pipeline.h"'], 0),
        ("compiler/plan/A.cpp", ['"runtime/plan/Plan_generated.h"', '"runtime/plan/Plan.h"'], 2),
        ("compiler/Compiler.cpp", ['"compiler/import/Llama4.h"', '"passes/Pipeline.h"', '"tools/moec.h"'], 3),
        ("tools/moec.cpp", ['"runtime/session/Session.h"', '"compiler/Compiler.h"', "<CLI/CLI.hpp>"], 0),
    ]
    headers = [
        ("runtime/Good.h", "// For this.\n#ifndef MOE_RUNTIME_GOOD_H\n#define MOE_RUNTIME_GOOD_H\n#endif\n", 0),
        ("tools/Bad.h", "// For that.\n#ifndef MOE_BAD_H\n#define MOE_BAD_H\n#endif\n", 2),
        ("passes/Once.h", "#pragma once\n", 1),
        ("passes/Empty.h", "", 1),
        ("runtime/server/http/Server.h", "#ifndef MOE_RUNTIME_SERVER_HTTP_SERVER_H\n#define MOE_RUNTIME_SERVER_HTTP_SERVER_H\n"
                                         "#include <boost/asio/post.hpp>\n#endif\n", 3),
    ]
    texts = [(path, "".join(f"#include {i}\n" for i in includes), line) for path, includes, line in cases] + headers
    with tempfile.TemporaryDirectory() as root:
        for path, text, _ in texts:
            os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
        found = sorted(finding.split(": ")[0] for finding in check(root))
    expected = sorted(f"{path}:{line}" for path, _, line in texts if line)
    for line in sorted(set(found) ^ set(expected)):
        print(f"{line}: {'reported, but right' if line in found else 'wrong, but not reported'}")
    return found == expected


def main():
    if sys.argv[1:] == ["--self-test"]:
        return 0 if selfTest() else 1
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    findings = check(root)
    print("\n".join(findings) or "every include and header guard is as it should be")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
