#!/usr/bin/env python3
"""Draws a terminal's screen, as `tmux capture-pane -e -p` prints it, as an SVG: screen_svg.py [--title TEXT] <SCREEN >PICTURE.svg

Monospace text on a dark ground with what flash-moe uses of attributes: bold, dim, italic, underlined, the eight colours and their bright forms. Each run of
characters has its column's place, so that the picture does not depend on the reader's font.
"""
import argparse
import re
import sys
import unicodedata
from xml.sax.saxutils import escape

COLOURS = ["#3b4048", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d7dae0"]
TEXT, GROUND, BAR = "#d7dae0", "#1e2127", "#2c313a"
WIDTH, HEIGHT, SIZE, MARGIN = 8.4, 19, 14, 14


def width(character):
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def change(style, numbers):
    """The attributes after the control sequence with these numbers."""
    style = dict(style)
    for n in numbers or [0]:
        if n == 0:
            style = {}
        elif n in (1, 2, 3, 4):
            style[{1: "bold", 2: "dim", 3: "italic", 4: "underlined"}[n]] = True
        elif n == 22:
            style.pop("bold", None), style.pop("dim", None)
        elif n in (23, 24):
            style.pop({23: "italic", 24: "underlined"}[n], None)
        elif 30 <= n <= 37 or 90 <= n <= 97:
            style["colour"] = COLOURS[n % 10]
        elif n == 39:
            style.pop("colour", None)
    return style


def runs(line, style):
    """(column, text, style) of each run of one style; the style at the line's end comes last, with no text."""
    column = 0
    for piece in re.split(r"(\033\[[0-9;]*m)", line):
        found = re.fullmatch(r"\033\[([0-9;]*)m", piece)
        if found:
            style = change(style, [int(n or 0) for n in found[1].split(";")])
        elif piece:
            yield column, piece, style
            column += sum(map(width, piece))
    yield column, "", style


def attributes(style):
    out = f' fill="{style["colour"]}"' if "colour" in style else ""
    out += ' font-weight="bold"' if "bold" in style else ""
    out += ' font-style="italic"' if "italic" in style else ""
    out += ' text-decoration="underline"' if "underlined" in style else ""
    return out + (' opacity="0.55"' if "dim" in style else "")


def draw(screen, title):
    lines = screen.rstrip("\n").split("\n")
    style, body, columns = {}, [], 40
    for row, line in enumerate(lines):
        for column, text, style in runs(line, style):
            columns = max(columns, column)
            if text.strip():
                x, y = MARGIN + column * WIDTH, 44 + row * HEIGHT + SIZE
                length = sum(map(width, text)) * WIDTH
                body.append(f'<text x="{x:.1f}" y="{y}" textLength="{length:.1f}" xml:space="preserve"{attributes(style)}>{escape(text)}</text>')
    w, h = 2 * MARGIN + columns * WIDTH, 44 + len(lines) * HEIGHT + MARGIN
    dots = "".join(f'<circle cx="{20 + 18 * i}" cy="16" r="5" fill="{c}"/>' for i, c in enumerate((COLOURS[1], COLOURS[3], COLOURS[2])))
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w:.0f}" height="{h:.0f}" viewBox="0 0 {w:.0f} {h:.0f}" font-family="ui-monospace, Menlo, Consolas, '
        f'\'DejaVu Sans Mono\', monospace" font-size="{SIZE}" fill="{TEXT}">',
        f'<title>{escape(title)}</title>',
        f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/><path d="M0 8a8 8 0 0 1 8-8h{w - 16:.0f}a8 8 0 0 1 8 8v24H0z" fill="{BAR}"/>{dots}',
        f'<text x="{w / 2:.0f}" y="21" text-anchor="middle" font-size="12" opacity="0.7">{escape(title)}</text>',
        *body, "</svg>"]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--title", default="flash-moe chat")
    sys.stdout.write(draw(sys.stdin.read(), parser.parse_args().title))
