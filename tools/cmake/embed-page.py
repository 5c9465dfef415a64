#!/usr/bin/env python3
"""embed-page.py PAGE OUT: writes a C++ source with a web page and the policy that lets its own script and style run.

The policy (CSP level 3) names both by their hashes, so that nothing else does, whatever the page is made to show.
"""
import base64
import hashlib
import re
import sys


def policy(page):
    def hashes(tag):
        parts = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), page, re.S)
        if not parts:
            sys.exit(f"embed-page: the page has no <{tag.decode()}>")
        return " ".join("'sha256-%s'" % base64.b64encode(hashlib.sha256(part).digest()).decode() for part in parts)

    return (f"default-src 'none'; script-src {hashes(b'script')}; style-src {hashes(b'style')}; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def main():
    source, out = sys.argv[1:]
    with open(source, "rb") as file:
        page = file.read()
    chunks = [page[at:at + 100] for at in range(0, len(page), 100)]
    lines = "\n".join('    "%s"' % "".join(chr(b) if 32 <= b < 127 and b not in b'"\\?' else "\\%03o" % b for b in chunk)
                      for chunk in chunks)
    with open(out, "w", encoding="ascii") as file:
        file.write('// Made by tools/cmake/embed-page.py.\n#include "runtime/server/page/Page.h"\n\n'
                   f'namespace moe::server {{\n\nconst std::string_view chatPage =\n{lines};\n'
                   f'const std::string_view chatPagePolicy = "{policy(page)}";\n\n}} // namespace moe::server\n')


if __name__ == "__main__":
    main()
