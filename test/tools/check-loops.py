#!/usr/bin/env python3
"""Fails where a hot loop of a function in AArch64 assembly spills registers or is too long.

  check-loops.py FILE FUNCTION INSTRUCTION COUNT MOST

FUNCTION is a regular expression. Each innermost loop of such a function that has INSTRUCTION must have it COUNT times,
use no memory of the stack, and be of at most MOST instructions. At least one such loop must be there.
"""

import re
import sys

path, function, instruction, count, most = sys.argv[1:]
bodies, body = [], None
with open(path, encoding="utf-8") as file:
    for line in file:
        if label := re.match(r'"?([A-Za-z_][^"]*)"?:', line):
            body = []
            if re.fullmatch(function, label[1]):
                bodies.append((label[1], body))
        elif body is not None:
            body.append(line.split("//")[0].rstrip())

checked = 0
for name, body in bodies:
    starts = {}
    for i, line in enumerate(body):
        if label := re.match(r"(\.L\w+):", line):
            starts[label[1]] = i
        branch = re.match(r"\s+(?:b\.?\w*|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
        if not branch or branch[1] not in starts:
            continue
        loop = [code.strip() for code in body[starts[branch[1]] : i + 1] if re.match(r"\s+[a-z]", code)]
        starts.clear()  # what goes further back is a loop around this one
        found = sum(code.startswith(instruction + "\t") for code in loop)
        if not found:
            continue
        checked += 1
        where = f"{name}: a loop of {len(loop)} instructions"
        if found != int(count):
            sys.exit(f"{where} has {instruction} {found} times, not {count}")
        if spilled := [code for code in loop if re.search(r"\[(sp|x29)\b", code)]:
            sys.exit(f"{where} uses the stack: {spilled[0]}")
        if len(loop) > int(most):
            sys.exit(f"{where} is longer than {most}")
if not checked:
    sys.exit(f"no loop of {function} has {instruction}")
