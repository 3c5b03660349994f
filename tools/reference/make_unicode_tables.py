#!/usr/bin/env python3
"""Writes src/text/unicode_tables.c: make_unicode_tables.py > src/text/unicode_tables.c. Needs tokenizers and unicodedata2.

The `tokenizers` library is asked, character by character, which ones its regular expressions and its NFC know; the tables are where that differs from the
Unicode versions of PCRE2 (14 or later) and of utf8proc (any).
"""
import unicodedata
import unicodedata2
from tokenizers import Regex, normalizers, pre_tokenizers

CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matches(pattern):
    """The characters that a pattern of one character matches. U+0001 keeps them apart."""
    text = "\x01\x01" + "\x01".join(c for c in CHARACTERS if c != "\x01") + "\x01\x01"
    return {ord(piece) for piece, _ in pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text) if len(piece) == 1 and piece != "\x01"}


def inert():
    """Characters that Unicode decomposes or reorders by now, and the library's older NFC does not."""
    nfc = normalizers.NFC().normalize_str
    found = set()
    for c in CHARACTERS:
        decomposed = unicodedata2.normalize("NFD", c)
        if unicodedata2.combining(c) or decomposed != c:
            texts = ("a\u0345" + c + "b", "a" + c + "\u0334b", decomposed, c)
            if any(nfc(text) != unicodedata2.normalize("NFC", text) for text in texts):
                found.add(ord(c))
    return found


def table(name, characters):
    ranges = []
    for c in sorted(characters):
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    items = [f"{{0x{first:x}, 0x{last:x}}}," for first, last in ranges] + ["{0, -1},"]
    print(f"const fm_range {name}[] = {{")
    line = "   "
    for item in items:
        if len(line) + 1 + len(item) > 158:
            print(line)
            line = "   "
        line += " " + item
    print(line + "\n};")


def main():
    assert unicodedata.unidata_version == "14.0.0", "run it with Python 3.11, whose Unicode is that of the oldest PCRE2 supported"
    print("/* unicode_tables.c: where Unicode's versions differ; written by tools/reference/make_unicode_tables.py, which says how. */")
    print('#include "text/tokenizer_parts.h"\n\n/* clang-format off */\n')
    print("/* White_Space. */")
    table("fm_space_ranges", matches(r"\s"))
    print("\n/* In the reference library's properties (Unicode 16), but not in those of Unicode 14. */")
    for name, category in (("fm_new_letters", "L"), ("fm_new_marks", "M"), ("fm_new_numbers", "N"), ("fm_new_punctuation", "P"), ("fm_new_symbols", "S"),
                           ("fm_new_upper", "Lu"), ("fm_new_lower", "Ll"), ("fm_new_modifiers", "Lm"), ("fm_new_other_letters", "Lo")):
        old = {ord(c) for c in CHARACTERS if unicodedata.category(c).startswith(category)}
        table(name, matches(rf"\p{{{category}}}") - old)
    print(f"\n/* Decomposed, composed or reordered by NFC in Unicode {unicodedata2.unidata_version}, but not by the reference library's (Unicode 9). */")
    table("fm_inert_ranges", inert())


if __name__ == "__main__":
    main()
