"""Checks what bench-probe said to the requests of bench.test."""
import json
import os
import sys

read, arithmetic, ping, *errors = [json.loads(line) for line in sys.stdin]
assert read["threads"] == 1 and 1e8 < read["bytes_per_second"] < 1e13, read
assert arithmetic["type"] == "fp32" and 1e8 < arithmetic["operations_per_second"] < 1e13, arithmetic
assert arithmetic["instruction"] != "none", arithmetic
if len(os.sched_getaffinity(0)) > 1:
    assert 1 < ping["one_way_nanoseconds"] < 1e7, ping
else:
    assert ping["one_way_nanoseconds"] is None, ping
assert len(errors) == 4 and all(list(e) == ["error"] for e in errors), errors
assert "'int4'" in errors[0]["error"] and errors[1]["error"].startswith("0 threads") and "not understood" in errors[3]["error"]
