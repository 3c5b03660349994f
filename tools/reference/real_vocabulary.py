#!/usr/bin/env python3
"""Compares the tokenizer with the `tokenizers` library on a vocabulary of 151,643 entries: real_vocabulary.py TOKENIZE [TEXTS].

TOKENIZE is the program of tests/text/tokenize.c. The vocabulary is Qwen's, as the PyPI package dashscope carries it in tiktoken's form; it is downloaded
into build/real-vocabulary and made into a tokenizer.json as Qwen2's is, by finding for each entry the two that merge into it. TEXTS: how many fuzzed ones
(100000).
"""

import base64
import itertools
import json
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import tokenizers
from make_tokenizer_cases import added_token, alphabet
from tokenizer_corpus import every_character, fuzzed, hard

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "real-vocabulary"
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The variant whose words hold combining marks.
PATTERN_MARKS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|box_end|>"]
PLAIN = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<think>", "</think>"]


def download():
    WORK.mkdir(parents=True, exist_ok=True)
    if not list(WORK.glob("dashscope*.whl")):
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(WORK), "dashscope"], check=True)
    with zipfile.ZipFile(next(WORK.glob("dashscope*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".tiktoken"))
        lines = wheel.read(name).split(b"\n")
    return {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines if line}


def parents(ranks, token):
    """The two entries that token is merged from, by merging its bytes with all that has a lower rank."""
    parts, limit = [token[i : i + 1] for i in range(len(token))], ranks[token]
    while len(parts) > 2:
        rank, at = min((ranks.get(a + b, limit), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
        assert rank < limit, token
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def convert(ranks, path, pattern):
    letters = alphabet()
    spell = lambda token: "".join(letters[b] for b in token)
    vocab = {spell(token): rank for token, rank in ranks.items()}
    merges = [[spell(part) for part in parents(ranks, token)] for token in sorted(ranks, key=ranks.get) if len(token) > 1]
    added = [added_token(len(ranks) + i, text, special=text in SPECIAL) for i, text in enumerate(SPECIAL + PLAIN)]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False}
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "post_processor": byte_level, "decoder": byte_level,
        "model": model | {"vocab": vocab, "merges": merges},
    }  # fmt: skip
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def run(program, path, texts, special):
    """The program's ids of each text, and the line it says about itself."""
    data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    done = subprocess.run([program, str(path), str(int(special))], input=data, capture_output=True)
    if done.returncode:
        sys.exit(f"{program} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    ids, at = [], 0
    while at < len(done.stdout):
        (n,) = struct.unpack_from("<I", done.stdout, at)
        ids.append(struct.unpack_from(f"<{n}i", done.stdout, at + 4))
        at += 4 + 4 * n
    return ids, done.stderr.decode()


def compare(program, path, name, texts, special=True):
    start = time.perf_counter()
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    load = time.perf_counter() - start
    tokenizer.encode_special_tokens = not special
    strings = [text.decode("utf-8", "replace") for text in texts]
    start = time.perf_counter()
    theirs = [tuple(tokenizer.encode(string, add_special_tokens=False).ids) for string in strings]
    seconds = time.perf_counter() - start
    ours, line = run(program, path, texts, special)
    wrong = [i for i in range(len(texts)) if i >= len(ours) or ours[i] != theirs[i]]
    print(f"{name}{'' if special else ', special off'}: {len(texts)} texts, {len(wrong)} differ")
    print(f"  ours  {line.strip()}")
    print(f"  tokenizers {tokenizers.__version__}: load {load:.3f} s, {sum(map(len, texts)) / seconds / 1e6:.1f} MB/s")
    for i in wrong[:3]:
        print(f"  {texts[i][:300]!r}\n    ours {ours[i][:40]}\n    tokenizers {theirs[i][:40]}")
    return len(wrong)


def prose():
    """What the repository has of running text, in one piece."""
    files = [path for pattern in ("*.md", "src/**/*.c", "tools/**/*.py", "models/ember/held-out.txt") for path in sorted(ROOT.glob(pattern))]
    return b"\n".join(path.read_bytes() for path in files)


def main():
    program, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100000
    ranks = download()
    wrong = 0
    for name, pattern in (("qwen2", PATTERN), ("qwen2-marks", PATTERN_MARKS)):
        path = WORK / f"{name}.json"
        if not path.exists():
            convert(ranks, path, pattern)
        added = SPECIAL + PLAIN
        wrong += compare(program, path, f"{name}: hard", list(hard(added)))
        wrong += compare(program, path, f"{name}: hard", list(hard(added)), special=False)
        wrong += compare(program, path, f"{name}: every character", list(every_character()))
        wrong += compare(program, path, f"{name}: fuzzed", list(fuzzed(3, n, added)))
        wrong += compare(program, path, f"{name}: long", [b"a" * 1000000, b" " * 1000000, "\u0301\u0323".encode() * 200000, *fuzzed(4, 20, added, 5000)])
        wrong += compare(program, path, f"{name}: prose", [prose()])
    print(f"{wrong} differ" if wrong else "all equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
