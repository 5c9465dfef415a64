#!/usr/bin/env python3
"""Writes a damaged copy of a plan.

    break-plan.py PLAN OUT version 2.0       says that it has this format, with a header whose hash is right
    break-plan.py PLAN OUT features 6        needs these feature bits, the same way
    break-plan.py PLAN OUT truncate BYTES    keeps the first bytes; a negative number drops the last
    break-plan.py PLAN OUT flip PART         flips a bit: in the header, the index, or a section by the name that
                                             `moec inspect` gives it
"""

import re
import struct
import subprocess
import sys

MASK = (1 << 64) - 1
# The start of XXH3's secret, which is all that 56 bytes need.
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c")


def xxh3(data):
    """XXH3_64bits of 33 to 64 bytes."""
    total = len(data) * 0x9E3779B185EBCA87
    for at, secret in ((16, 32), (len(data) - 32, 48), (0, 0), (len(data) - 16, 16)):
        a, b = struct.unpack_from("<QQ", data, at)
        c, d = struct.unpack_from("<QQ", SECRET, secret)
        product = (a ^ c) * (b ^ d)
        total += (product & MASK) ^ (product >> 64)
    total &= MASK
    total = (total ^ total >> 37) * 0x165667919E3779F9 & MASK
    return total ^ total >> 32


plan, out, how, what = sys.argv[1:]
with open(plan, "rb") as file:
    data = bytearray(file.read())
assert struct.unpack_from("<Q", data, 56)[0] == xxh3(data[:56])
if how == "version":
    struct.pack_into("<HH", data, 8, *(int(number) for number in what.split(".")))
    struct.pack_into("<Q", data, 56, xxh3(data[:56]))
elif how == "features":
    struct.pack_into("<I", data, 12, int(what))
    struct.pack_into("<Q", data, 56, xxh3(data[:56]))
elif how == "truncate":
    data = data[: int(what)]
elif how == "flip":
    if what == "header":
        at = 20
    elif what == "index":
        at = struct.unpack_from("<Q", data, 16)[0] + 100
    else:
        text = subprocess.run(["moec", "inspect", plan], check=True, capture_output=True, text=True).stdout
        at = int(re.search(re.escape(what) + r" +at (\d+)", text).group(1)) + 100
    data[at] ^= 4
else:
    sys.exit(__doc__)
with open(out, "wb") as file:
    file.write(data)
