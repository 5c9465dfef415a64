#!/usr/bin/env python3
"""Writes UnicodeTables.inc, the character classes of the pre-tokenizer (Pretokenizer.h).

    python3 make-unicode-tables.py > UnicodeTables.inc

The version of Unicode is the one that Hugging Face's `tokenizers` has built in, so that text is
split where it splits it. Python 3.14 has that version; an older Python needs the package
unicodedata2 of the same version.
"""

import sys

UNICODE = "16.0.0"
BLOCK = 128  # code points per row of the second table: near the smallest sum of both tables

# The values of CharClass in Pretokenizer.cpp.
OTHER, UPPER, LOWER, LETTER, MARK, NUMBER, SPACE, NEWLINE = range(8)

# The property White_Space. unicodedata lacks it, and str.isspace() differs (U+001C).
WHITE_SPACE = {0x09, 0x0B, 0x0C, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)}
WHITE_SPACE |= {0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def load():
    import unicodedata

    if unicodedata.unidata_version == UNICODE:
        return unicodedata
    try:
        import unicodedata2
    except ImportError:
        unicodedata2 = None
    if unicodedata2 and unicodedata2.unidata_version == UNICODE:
        return unicodedata2
    sys.exit(f"Unicode {UNICODE} is needed, this Python has {unicodedata.unidata_version}: "
             f"pip install unicodedata2=={UNICODE}")


def char_class(code, category):
    if code in (0x0A, 0x0D):
        return NEWLINE
    if code in WHITE_SPACE:
        return SPACE
    exact = {"Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Lm": LETTER, "Lo": LETTER}
    return exact.get(category) or {"M": MARK, "N": NUMBER}.get(category[0], OTHER)


def main():
    data = load()
    classes = [char_class(c, data.category(chr(c))) for c in range(0x110000)]
    rows, index = {}, []
    for start in range(0, len(classes), BLOCK):
        row = "".join(map(str, classes[start:start + BLOCK]))
        index.append(rows.setdefault(row, len(rows)))
    assert len(rows) <= 256

    print(f"// Character classes of Unicode {UNICODE}, by make-unicode-tables.py. Do not edit.")
    print("//")
    print("// The class of code point c, as a digit, is")
    print("// kClasses[kBlocks[c / kBlockSize] * kBlockSize + c % kBlockSize].")
    print(f"constexpr char32_t kBlockSize = {BLOCK};")
    print(f"constexpr uint8_t kBlocks[{len(index)}] = {{")
    for start in range(0, len(index), 24):
        print("    " + ",".join(map(str, index[start:start + 24])) + ",")
    print("};")
    print("constexpr char kClasses[] =")
    for row in rows:
        print("\n".join(f'    "{row[i:i + 64]}"' for i in range(0, BLOCK, 64)))
    print("    ;")


if __name__ == "__main__":
    main()
