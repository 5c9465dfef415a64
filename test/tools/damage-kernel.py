"""damage-kernel.py BUNDLE OUT: the first product of the entry norm_... becomes a sum of the same length."""
import re
import sys

with open(sys.argv[1], "rb") as file:
    data = file.read()
entry = data.index(b".entry norm_bf16_256_eps")
found = re.compile(rb"mul\.(rn\.)?f32").search(data, entry)
operation = found[0].replace(b"mul", b"add")
with open(sys.argv[2], "wb") as file:
    file.write(data[:found.start()] + operation + data[found.end():])
