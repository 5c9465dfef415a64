#!/usr/bin/env python3
"""Says at the end of a test run what passed and names all that failed.

  summarize-tests.py REPORTS   a folder with ctest.xml, lit.json and NAMETest.xml (NAMETest.long.xml) of each gtest program

Exits with 1 if a test failed, or if nothing ran.
"""
import glob
import json
import os
import re
import sys
import xml.etree.ElementTree as ElementTree

LIT_OUTCOMES = {"PASS": "passed", "FLAKYPASS": "passed", "XFAIL": "passed", "UNSUPPORTED": "skipped"}


def junit(path):
    """(element, outcome) of each test in a report of ctest or gtest; outcome: passed, failed or skipped."""
    for case in ElementTree.parse(path).iter("testcase"):
        tags = {child.tag: child for child in case}
        outcome = "passed"
        if "failure" in tags or case.get("status") == "fail":
            outcome = "failed"
        elif "skipped" in tags or case.get("status") in ("notrun", "disabled"):
            outcome = "skipped"
            # ctest also calls a test "notrun" whose program is missing.
            if "skipped" in tags and tags["skipped"].get("message", "").startswith("Unable to find"):
                outcome = "failed"
        yield case, outcome


def main():
    reports = sys.argv[1]
    counts, lines = {}, {"failed": [], "skipped": []}

    def note(kind, name, outcome):
        counts.setdefault(kind, {"passed": 0, "failed": 0, "skipped": 0})[outcome] += 1
        if outcome in lines:
            lines[outcome].append(f"{kind} {name}")

    explained = {}  # ctest name: how many failures its own report names
    for path in sorted(glob.glob(os.path.join(reports, "*Test*.xml"))):
        program = os.path.basename(path)[:-len(".xml")]
        for case, outcome in junit(path):
            note("gtest", f"{case.get('classname')}.{case.get('name')}", outcome)
            explained[program] = explained.get(program, 0) + (outcome == "failed")
    lit = os.path.join(reports, "lit.json")
    if os.path.exists(lit):
        with open(lit, encoding="utf-8") as file:
            for test in json.load(file)["tests"]:
                outcome = LIT_OUTCOMES.get(test["code"], "failed")
                note("lit", "test/" + test["name"].split(" :: ")[1], outcome)
                explained["lit"] = explained.get("lit", 0) + (outcome == "failed")
    for case, outcome in junit(os.path.join(reports, "ctest.xml")):
        name = case.get("name")
        if outcome == "failed" and not explained.get(name):  # no report names a failure: it crashed or hung
            started = re.findall(r"^\[ RUN      \] (.*)$", case.findtext("system-out") or "", re.MULTILINE)
            note("ctest", f"{name} in {started[-1]}" if started else name, outcome)
        elif name not in explained:
            note("ctest", name, outcome)

    for line in lines["skipped"]:
        print("skipped:", line)
    for line in lines["failed"]:
        print("FAILED: ", line)
    for kind, count in counts.items():
        print(f"{kind}: " + ", ".join(f"{count[outcome]} {outcome}" for outcome in count))
    return 1 if lines["failed"] or not counts else 0


if __name__ == "__main__":
    sys.exit(main())
