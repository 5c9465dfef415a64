#!/usr/bin/env python3
"""Changes fields of a JSON file in place: edit-json.py FILE model.type='"WordPiece"' pad_token_id= (which removes it)."""

import json
import pathlib
import sys

path = pathlib.Path(sys.argv[1])
root = json.loads(path.read_text())
for change in sys.argv[2:]:
    keys, value = change.split("=", 1)
    *folders, last = [int(key) if key.isdigit() else key for key in keys.split(".")]
    at = root
    for key in folders:
        at = at[key]
    if value:
        at[last] = json.loads(value)
    else:
        del at[last]
path.write_text(json.dumps(root, indent=2) + "\n")
