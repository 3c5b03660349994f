#!/usr/bin/env python3
"""Writes tests/text/cases: texts, and the ids that the `tokenizers` library gives them.

ember.bin is for models/ember/tokenizer.json; tiny.json, written here too, has what that one has not: the pattern of GPT-2, merges as strings, ignore_merges,
and added tokens with every option; tiny.bin is for it. A .bin is one case after another: u32 bytes of text, u32 number of ids with bit 31 for special,
the text, the ids as u16; little-endian.
"""

import json
import struct
from pathlib import Path

import tokenizers
from tokenizer_corpus import fuzzed, hard

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests" / "text" / "cases"


def added_token(id, content, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False, **flags}


def alphabet():
    """GPT-2's: the character that stands for each byte."""
    printable = [b for b in range(256) if 32 < b < 127 or (160 < b and b != 173)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def tiny():
    vocab = {c: b for b, c in sorted(alphabet().items())}
    # "abab", "abc" and "xyz" come about in more than one way; the later of two equal pairs counts; "whole" is only found as a whole piece.
    merges = ["a b", "b a", "ab ab", "b c", "ab c", "a bc", "x y", "y z", "xy z", "x yz", "t h", "th e", "\u0120 the", "\u0120 a", "\u0120 \u0120", "\u0120\u0120 \u0120\u0120"]
    merges += ["\u010a \u010a", "\u00c3 \u00a9", "l l", "' s", "1 1", "11 1", "\u00e4 \u00bd", "\u00e4\u00bd \u0142", "a b"]
    for merge in merges:
        vocab.setdefault(merge.replace(" ", ""), len(vocab))
    for word in ("whole", "\u0120whole", "333"):
        vocab[word] = len(vocab)
    n = len(vocab)
    added = [
        added_token(n, "<s>", special=True), added_token(n + 1, "<left>", lstrip=True), added_token(n + 2, "<right>", rstrip=True, special=True),
        added_token(n + 3, "<both>", lstrip=True, rstrip=True), added_token(n + 4, "word", single_word=True), added_token(n + 5, "caf\u00e9", normalized=True),
        added_token(n + 6, "cafe\u0301s", normalized=True, single_word=True), added_token(n + 7, "<s>x", special=True), added_token(n + 8, "s>", rstrip=True),
        added_token(n + 9, "\u1e9b\u0323", normalized=True), added_token(n + 10, " ", normalized=True, special=True), added_token(n + 11, "<\u00fc>", special=True),
        added_token(n + 12, "word word", lstrip=True), added_token(n + 13, "  \t", rstrip=True), added_token(vocab["whole"], "whole", normalized=True, single_word=True),
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
        "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": model | {"byte_fallback": False, "ignore_merges": True, "vocab": vocab, "merges": merges},
    }  # fmt: skip


def write(name, tokenizer_json, n_fuzzed, seed, keep):
    """keep: one of so many of the hard texts."""
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_json))
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    cases, size = set(), 0
    with open(CASES / name, "wb") as out:
        for number, text in enumerate([*list(hard(added))[::keep], *fuzzed(seed, n_fuzzed, added, 6)]):
            for special in (True, False) if number % 4 == 0 else (True,):
                if (text, special) in cases:
                    continue
                cases.add((text, special))
                tokenizer.encode_special_tokens = not special
                ids = tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=False).ids
                size += out.write(struct.pack("<II", len(text), len(ids) | special << 31) + text + struct.pack(f"<{len(ids)}H", *ids))
    print(f"{name}: {len(cases)} cases, {size} bytes, tokenizers {tokenizers.__version__}")


def main():
    CASES.mkdir(exist_ok=True)
    with open(CASES / "tiny.json", "w") as f:
        json.dump(tiny(), f, ensure_ascii=True, separators=(",", ":"))
    write("ember.bin", ROOT / "models" / "ember" / "tokenizer.json", 2300, 1, 1)
    write("tiny.bin", CASES / "tiny.json", 1200, 2, 3)


if __name__ == "__main__":
    main()
