#!/usr/bin/env python3
"""Writes tests/text/cases: texts, and the ids that the `tokenizers` library gives them.

ember.bin is for models/ember/tokenizer.json; tiny.json, written here too, has what that one has not: the pattern of GPT-2, merges as strings, ignore_merges,
and added tokens with every option; tiny.bin is for it. The others, with small vocabularies trained here, have the forms that families' tokenizers have. A .bin is one case after another: u32 bytes of text, u32 number of ids with bit 31 for special,
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


# ---- forms of other families ------------------------------------------------

# The patterns as the families publish them.
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK_V3 = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
               r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]
# Fewer letters than are published.
DEEPSEEK_V2 = [r"[\r\n]", "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u0370-\u0373\u0386\u0388-\u03ff\u0400-\u0481\u048a-\u052f\u1e00-\u1fff]+",
               r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+"]


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


DIGITS = {"type": "Digits", "individual_digits": True}
PRE = {
    "llama3": sequence(split(CL100K), byte_level(False)),
    "o200k": sequence(split(O200K, "Removed", True), byte_level(False)),
    "deepseek_v3": sequence(*(split(p) for p in DEEPSEEK_V3), byte_level(False)),
    "deepseek_v2": sequence(*(split(p) for p in DEEPSEEK_V2), DIGITS, byte_level(False)),
    "granite": sequence(DIGITS, byte_level(True)),
    "punctuation": sequence({"type": "Punctuation", "behavior": "Isolated"}, {"type": "Digits", "individual_digits": False}, byte_level(False)),
}
TRAINING = [t.decode("utf-8", "replace") for t in hard([])]
MARK = "\u2581"


def trained_bytes(name):
    """Byte-level BPE behind the family's pre-tokeniser."""
    form = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": PRE[name], "post_processor": None, "decoder": byte_level(True),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                      "byte_fallback": False, "ignore_merges": False, "vocab": {}, "merges": []}}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(form))
    tokenizer.train_from_iterator(TRAINING, tokenizers.trainers.BpeTrainer(
        vocab_size=700, show_progress=False, initial_alphabet=list(alphabet().values())))
    form = json.loads(tokenizer.to_str())
    n = len(form["model"]["vocab"])
    form["model"]["ignore_merges"] = name == "llama3"
    if name == "llama3":        # pieces that no merges make
        form["model"]["vocab"] |= {"\u0120whole": n, "333": n + 1}
        n += 2
    form["added_tokens"] = [added_token(n, "<|end|>", special=True), added_token(n + 1, "<tool>"), added_token(n + 2, "x y", normalized=True)]
    return form


def trained_characters(name):
    """SentencePiece's BPE with bytes for characters that it does not have, spaces marked by the normaliser (Mixtral, Phi-3.5) or the pre-tokeniser."""
    metaspace = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": name == "metaspace_split"}
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=420, limit_alphabet=150, show_progress=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always", split=True)
    tokenizer.train_from_iterator([text.replace("\0", "") for text in TRAINING], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
    for text in model["vocab"]:
        vocab.setdefault(text, len(vocab))
    # Merges over spaces: what a text that is not split into words needs.
    merges = [*model["merges"], [MARK, MARK], [MARK * 2, MARK * 2], ["e", MARK]]
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    n = len(vocab)
    by_normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]}
    added = [added_token(0, "<unk>", special=True), added_token(1, "<s>", special=True), added_token(2, "</s>", special=True),
             added_token(n, "<|user|>", special=True, rstrip=True), added_token(n + 1, "[INST]", normalized=True), added_token(n + 2, "x y", lstrip=True)]
    return {"version": "1.0", "added_tokens": added, "normalizer": by_normalizer if name == "mixtral" else None,
            "pre_tokenizer": None if name == "mixtral" else metaspace,
            "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"},
                                                         {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                      "byte_fallback": True, "ignore_merges": False, "vocab": vocab, "merges": merges}}


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
    for seed, name in enumerate([*PRE, "mixtral", "metaspace", "metaspace_split"], 3):
        with open(CASES / f"{name}.json", "w") as f:
            json.dump(trained_bytes(name) if name in PRE else trained_characters(name), f, ensure_ascii=True, separators=(",", ":"))
        write(f"{name}.bin", CASES / f"{name}.json", 250, seed, 5)


if __name__ == "__main__":
    main()
