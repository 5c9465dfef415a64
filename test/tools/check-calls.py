#!/usr/bin/env python3
"""Fails where assembly calls or jumps to a symbol that it does not define: check-calls.py FILE"""

import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
defined = set(re.findall(r"^([\w.$]+):", text, re.MULTILINE))
called = set(re.findall(r"^\s+(?:callq?|jmp|bl|b)\s+([A-Za-z_.][\w.$@]*)", text, re.MULTILINE))
if not defined:
    sys.exit("there is no symbol in it")
if called - defined:
    sys.exit("it calls symbols from outside: " + " ".join(sorted(called - defined)))
