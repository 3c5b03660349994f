"""Texts that are hard on a tokenizer, as bytes: hard() written by hand, fuzzed() put together at random from a seed. Imported by make_tokenizer_cases.py
and real_vocabulary.py."""

import random
import unicodedata

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
NO_SPACES = "\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff"  # some programs take them for spaces
DIGITS = "0123456789٠١٢٣۴۵۶߀߁०१२০১௦௧๐๑໐༠၀០᠐᥆᭐꘠０１９𝟎𝟙𐒠𑁦½¾²³¹⁴₅ⅠⅣⅫↀ①⑩㊿〇〡㈠𐄇𒐀"
MARKS = "\u0300\u0301\u0302\u0303\u0308\u030a\u0316\u0323\u0327\u0328\u0334\u0345\u0338\u05b0\u05bc\u05bf\u064b\u0651\u0670\u093c\u0941\u3099\u309a\u1dce\u20d0\u0f71\u0f72\u0f74"
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'vE", "'M", "'LL", "'lL", "'D", "'ſ", "’s", "'n", "'sS", "''s", "'s's"]
SCRIPTS = [
    "The quick brown fox jumps over the lazy dog.", "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich", "Voix ambiguë d’un cœur qui préfère les jattes de kiwis",
    "Příliš žluťoučký kůň úpěl ďábelské ódy", "Pijamalı hasta yağız şoföre çabucak güvendi. İIıi", "Đây là tiếng Việt: ngữ nghĩa, ổ ữ ệ", "Съешь ещё этих мягких французских булок, да выпей чаю",
    "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία ᾧ ᾳ ΐ", "דג סקרן שט בים מאוכזב ולפתע מצא חברה שָׁלוֹם", "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر", "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण क़ ख़",
    "আমি বাংলায় গান গাই ড় ঢ় য়", "யாமறிந்த மொழிகளிலே ொ ோ ௌ", "తెలుగు భాష ై", "ಕನ್ನಡ ಭಾಷೆ ೀ ೇ ೋ", "മലയാളം ൊ ോ ൌ", "සිංහල භාෂාව ේ ො ෝ ෞ", "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า", "ພາສາລາວ",
    "བོད་སྐད་ གྷ ཌྷ ཀྵ", "မြန်မာဘာသာ ဦ", "ភាសាខ្មែរ", "ქართული ენა", "Հայերեն լեզու", "አማርኛ ቋንቋ", "いろはにほへと ちりぬるを ガギグ が き゛", "色は匂へど散りぬるを我が世誰ぞ常ならむ", "我能吞下玻璃而不伤身体。你好，世界！", "天地玄黃宇宙洪荒",
    "다람쥐 헌 쳇바퀴에 타고파", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ", "ᐃᓄᒃᑎᑐᑦ", "ᠮᠣᠩᠭᠣᠯ\u180e ᠬᠡᠯᠡ", "𐌲𐌿𐍄𐌹𐍃𐌺", "𓀀𓂀𓃠", "𒀀𒁀", "𠜎𠜱𠝹豈更車", "ßẞﬀﬁﬃﬆ Ǆ ǅ ĳ ŉ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ℂℕ ℵ Å K Ω", "Ａｂｃ１２ ｶﾞ",
]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷🇯🇵", "🇩", "❤️", "1️⃣", "🧑🏿‍🚀", "☺", "\U0001f9ff\ufe0f", "🏴\U000e0067\U000e0062\U000e007f"]
NEW = "\u1c89\ua7cb\U00010d4a\U00011380\U000105c9\U000105d2\u0307\U00010d40\u0897\u1acf\U0001e030\U0001e4d0\U0002ebf0\U00031350\ua7ce\U00016ea0\U00011938\U00011935\U00011930\u09fe\u0d3b\u1df6\u08d3\u0c3c"
BROKEN = [
    b"\x80", b"\xbf\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"a\xc3(", b"\xe2\x82", b"\xe2\x28\xa1", b"\xe2\x82(", b"\xed\xa0\x80", b"\xed\xbf\xbf\xed\xa0", b"\xf0\x9f\x98", b"\xf0\x9f(\x80",
    b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff\xfe", b"ok \xf0\x9f\x98\x80 \xf0\x9f\x98", b"\xe0\x80\x80", b"\xe0\xa0", b"<|im_\xffend|>", b"\xf8\x88\x80\x80\x80", b"e\xcc", b"\xc2\xa0\xc2",
]
CODE = [
    'int main(void) {\n\tprintf("%d\\n", 0x1F);\n\treturn 0;\n}\n', "def f(x):\r\n    return {'a': [1, 2.5e-3, None]}\r\n", "SELECT * FROM t WHERE a>=10 AND b<>'x''y';", '{"name": "get_weather", "arguments": {"city": "Köln"}}',
    "<tool_call>\n<function=f>\n<parameter=p>\n1\n</parameter>\n</function>\n</tool_call>", "https://example.org/a/b?c=d&e=%20#f", "a_b-c.d::e->f!=g&&h||!i", "$\\frac{a}{b}$ ~ 3.14159 +1-800", "//---===***###@@@!!!???...,,,;;;:::",
]


def hard(added):
    """added: the texts of added tokens."""
    yield from (b"", b" ", b"\0", b"\0\0a\0", b"\r\n", b"'", b"a", "é".encode())
    for text in SCRIPTS + CODE + EMOJI + CONTRACTIONS + [NEW, DIGITS, MARKS]:
        yield text.encode()
        yield unicodedata.normalize("NFD", text).encode()
        yield (" " + text + " " + text.upper()).encode()
    for c in CONTRACTIONS:
        yield f"I{c} we{c.upper()}it {c} {c}\n9{c}é{c}".encode()
    for s in SPACES + NO_SPACES:
        yield f"a{s}b{s}{s}c {s}d{s} e\n{s}\n{s}1{s}!{s}'s{s}{s}{s}".encode()
        yield (s * 7 + "x").encode()
        yield ("x" + s * 7).encode()
    for a in "\r\n\t ":
        for b in "\r\n\t ":
            for c in "\r\n\t ":
                yield f"x{a}{b}{c}y {a}{b}{c}{a}!{c}{b}".encode()
    for a in MARKS:
        for b in MARKS[::2]:
            yield f"a{a}{b} q{b}{a}".encode()
    for base in "aeioucnsAOUαωυиיأかハकୄ":
        yield "".join(base + m for m in MARKS).encode()
    yield "".join(chr(0x1100 + i % 19) + chr(0x1161 + i % 21) + chr(0x11A7 + i % 28) for i in range(60)).encode()
    yield "ᄀ가각ᄀ가각ᆨᅡᆨ각ᆨ가ᅡ".encode()
    for t in added:
        yield t.encode()
        yield f"x{t}y {t} {t}{t}\n{t}1".encode()
        for cut in range(1, len(t)):
            yield f"{t[:cut]} {t[cut:]}{t[:cut]}{t}".encode()
        yield f"{t.upper()}{t[1:]}{t[:-1]}{t[:-1]}{t}".encode()
    yield from BROKEN
    for part in BROKEN:
        yield b"h\xc3\xa9 " + part + b" \xe4\xbd\xa0" + part * 3
    for run in ("a", "A", " ", "\n", "\r\n", "1", "!", "é", "e\u0301", "\u0301", "你", "😀", "ab", "the ", "\t \t", "'s", "\0", "\u0323\u0301", "=-"):
        for n in (2, 3, 4, 7, 15, 16, 17, 64, 255):
            yield (run * n).encode()
    for c in (0x7F, 0x80, 0x7FF, 0x800, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 0x10FFFF, 0xE000, 0xF8FF, 0xD7FF, 0xAD, 0x115F, 0x3164):
        yield f"{chr(c)} a{chr(c)}b".encode()


def character(r):
    kind = r.random()
    if kind < 0.4:
        return chr(r.randrange(32, 127))
    if kind < 0.5:
        return r.choice(SPACES + NO_SPACES)
    if kind < 0.6:
        return r.choice(MARKS)
    if kind < 0.7:
        return r.choice(DIGITS + NEW)
    c = r.randrange(0x80, 0x3000) if kind < 0.85 else r.randrange(0x80, 0x110000) if kind < 0.9 else r.randrange(0x10000, 0x20000)
    return "" if 0xD800 <= c < 0xE000 else chr(c)


def piece(r, added):
    kind = r.random()
    if kind < 0.25:
        return r.choice(SCRIPTS[:1] * 20 + SCRIPTS).split(" ")[r.randrange(0, 2) - 1].encode()
    if kind < 0.40:
        return b"".join(character(r).encode() for _ in range(r.randrange(1, 6)))
    if kind < 0.50:
        return (r.choice(SPACES) * r.choice((1, 1, 1, 2, 3, 5))).encode()
    if kind < 0.60:
        return r.choice(" \n\r\t") .encode() * r.randrange(1, 4)
    if kind < 0.68:
        return r.choice(CONTRACTIONS).encode()
    if kind < 0.76:
        return str(r.randrange(10 ** r.randrange(1, 9))).encode()
    if kind < 0.83 and added:
        t = r.choice(added).encode()
        return t if r.random() < 0.7 else t[: r.randrange(len(t) + 1)] if r.random() < 0.5 else t[r.randrange(len(t)) :]
    if kind < 0.87:
        return r.choice(EMOJI).encode()
    if kind < 0.90:
        return r.choice(BROKEN)
    if kind < 0.95:
        return unicodedata.normalize("NFD", r.choice(SCRIPTS))[: r.randrange(1, 12)].encode()
    return r.choice(CODE)[r.randrange(10) :][: r.randrange(1, 16)].encode()


def fuzzed(seed, n, added, pieces=12):
    """n texts of 1 to `pieces` pieces."""
    r = random.Random(seed)
    for _ in range(n):
        text = b"".join(piece(r, added) for _ in range(r.randrange(1, pieces + 1)))
        if r.random() < 0.1 and text:
            at = r.randrange(len(text))
            text = text[:at] + bytes([r.randrange(256)]) + text[at + 1 :]
        yield text


def every_character():
    """Each character alone and beside what it might join, some hundreds a text."""
    for start in range(0, 0x110000, 256):
        if 0xD800 <= start < 0xE000:
            continue
        yield "\x01".join(f"{c}" for c in map(chr, range(start, start + 256))).encode()
        yield " ".join(f"a{c}'{c}1{c} {c}{c}" for c in map(chr, range(start, start + 256))).encode()
        yield " ".join(f"a\u0345{c}b\u0334{c}\u0301" for c in map(chr, range(start, start + 256))).encode()
        yield " ".join(unicodedata.normalize("NFD", c) for c in map(chr, range(start, start + 256))).encode()
