#!/usr/bin/env python3
"""Renders test/chat/templates.json with chat templates and says which lay out conversations as the runtime does.

  check-chat-template.py FILE...    templates (.jinja), or tokenizer_config.json and chat_template.json that hold one

Of a template that renders every case to its `text` or `wanted`, or fails where the case has an `error`, it prints the
line for the table in ChatTemplates.cpp, and whether the line is there; of another, each case that differs. The exit
status is 0 if all are in the table. Needs Jinja2, which is set up as transformers does.
"""
import argparse
import hashlib
import json
import pathlib
import re
import sys

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).resolve().parent
CASES = HERE.parent.parent / "test/chat/templates.json"


def compile_template(text):
    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(text)


def render(template, case):
    options = {"add_generation_prompt": True, **case["options"]}
    try:
        return template.render(
            messages=case["messages"], tools=case["tools"], bos_token="<|begin_of_text|>", **options)
    except (TemplateError, TypeError) as error:
        return error


def differs(template, case):
    """What is wrong with the rendering of a case, or None."""
    got = render(template, case)
    if isinstance(got, Exception):
        return None if "error" in case else f"fails: {got}"
    expected = [case[key] for key in ("text", "wanted") if key in case]
    if got in expected:
        return None
    at = max(next((i for i, (a, b) in enumerate(zip(got, text)) if a != b), min(len(got), len(text)))
             for text in expected)
    return f"differs from byte {at} on: {got[at:at + 60]!r}"


def hash_of(text):
    """As chatTemplateHash."""
    return hashlib.sha256(re.sub(r"[ \t\n\v\f\r]", "", re.sub(r"\{#.*?(#\}|\Z)", "", text, flags=re.S)).encode()).hexdigest()


def read(path):
    text = path.read_text()
    return json.loads(text)["chat_template"] if path.suffix == ".json" else text


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE")
    table = (HERE / "ChatTemplates.cpp").read_text()
    known = True
    for path in arguments.parse_args().files:
        text = read(path)
        template = compile_template(text)
        found = [(case["name"], differs(template, case)) for case in json.loads(CASES.read_text())]
        wrong = [f"{path}: {name} {what}" for name, what in found if what]
        print("\n".join(wrong) if wrong else f'{path}: {{"{hash_of(text)}", ChatFormat::kHfJson}},')
        if not wrong:
            print(f"{path}: {'in' if hash_of(text) in table else 'NOT in'} the table")
        known = known and not wrong and hash_of(text) in table
    return 0 if known else 1


if __name__ == "__main__":
    sys.exit(main())
