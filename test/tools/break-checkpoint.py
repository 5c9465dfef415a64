#!/usr/bin/env python3
"""Damages a safetensors file in place.

    break-checkpoint.py FILE truncate BYTES          drops the last bytes
    break-checkpoint.py FILE header-length LENGTH    says that the header has so many bytes
    break-checkpoint.py FILE overlap NAME            moves the data of a tensor onto that of the one before it
    break-checkpoint.py FILE dtype NAME DTYPE        names another type
    break-checkpoint.py FILE shape NAME 4,8          names another shape
    break-checkpoint.py FILE quantize NAME           stores a 16-bit tensor as eight-bit floats
    break-checkpoint.py FILE rename NAME NEW         calls a tensor by another name
    break-checkpoint.py FILE add NAME                adds a float32 tensor of one element
    break-checkpoint.py FILE set NAME INDEX BYTES    replaces an element by bytes in hexadecimal
"""

import json
import pathlib
import struct
import sys

path, how, *rest = sys.argv[1:]
path = pathlib.Path(path)
data = bytearray(path.read_bytes())
length = struct.unpack_from("<Q", data)[0]
header = json.loads(data[8 : 8 + length])


def write(body):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


body = data[8 + length :]
if how == "truncate":
    path.write_bytes(data[: -int(rest[0])])
elif how == "header-length":
    path.write_bytes(struct.pack("<Q", int(rest[0])) + data[8:])
elif how == "overlap":
    begin, end = header[rest[0]]["data_offsets"]
    header[rest[0]]["data_offsets"] = [begin - 2, end - 2]
    write(body)
elif how == "dtype":
    header[rest[0]]["dtype"] = rest[1]
    write(body)
elif how == "shape":
    header[rest[0]]["shape"] = [int(size) for size in rest[1].split(",")]
    write(body)
elif how == "quantize":
    begin, end = header[rest[0]]["data_offsets"]
    half = (end - begin) // 2
    for tensor in header.values():
        if "data_offsets" in tensor and tensor["data_offsets"][0] >= end:
            tensor["data_offsets"] = [offset - half for offset in tensor["data_offsets"]]
    header[rest[0]] |= {"dtype": "F8_E4M3", "data_offsets": [begin, end - half]}
    write(body[: end - half] + body[end:])
elif how == "rename":
    header[rest[1]] = header.pop(rest[0])
    write(body)
elif how == "add":
    header[rest[0]] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    write(body + bytes(4))
elif how == "set":
    element = bytes.fromhex(rest[2])
    at = header[rest[0]]["data_offsets"][0] + int(rest[1]) * len(element)
    body[at : at + len(element)] = element
    write(body)
else:
    sys.exit(__doc__)
