#!/usr/bin/env python3
"""The server's page as C: its bytes, and a Content-Security-Policy that allows its own script and style alone, by their hashes: embed_page.py PAGE OUTPUT."""
import base64
import hashlib
import re
import sys
from pathlib import Path


def hashes(page, tag):
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
    if len(found) != 1:
        sys.exit(f"embed_page.py: the page has {len(found)} of <{tag}>, expected one")
    return " ".join("'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'" for text in found)


def main(source, output):
    data = Path(source).read_bytes()
    page = data.decode()
    policy = (f"default-src 'none'; script-src {hashes(page, 'script')}; style-src {hashes(page, 'style')}; "
              "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    rows = [",".join(map(str, data[i:i + 64])) for i in range(0, len(data), 64)]
    Path(output).write_text(f"/* Made by tools/embed_page.py from {Path(source).name}. */\n#include \"serve/page/page.h\"\n\n"
                            f"const char fm_page_policy[] = \"{policy}\";\nconst size_t fm_page_bytes = {len(data)};\n"
                            "const unsigned char fm_page_data[] = {\n" + ",\n".join(rows) + "};\n")


main(*sys.argv[1:])
