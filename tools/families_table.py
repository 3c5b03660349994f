#!/usr/bin/env python3
"""The table of model families, from what the tree holds: the list and the opening comment of src/families, the golden models in tests/golden and what they were compared
with, and what the program says of them.

    families_table.py [--write FILE]

prints it, or puts it between the two marks in FILE. FLASH_MOE names the program (default: build/flash-moe)."""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = os.environ.get("FLASH_MOE", str(ROOT / "build" / "flash-moe"))
GOLDEN = ROOT / "tests" / "golden"
BEGIN, END = "<!-- families: begin (tools/families_table.py writes this) -->", "<!-- families: end -->"

# By what the published chat templates of a family mark a tool call. The program says which of its formats that is.
MARKS = {
    "qwen3_5_moe": ["<function="], "qwen3_next": ["<tool_call>", "<function="], "qwen3_moe": ["<tool_call>", "<function="], "qwen2_moe": [],
    "mixtral": ["[TOOL_CALLS]"], "olmoe": [], "granitemoe": ["<|tool_call|>"], "glm4_moe": ["<arg_key>"], "minimax_m2": ["<minimax:tool_call>"], "phimoe": [],
    "hunyuan_v1_moe": ["<tool_calls>"], "dots1": [], "ernie4_5_moe": ["<tool_call>"], "bailing_moe": ["<tool_call>"], "lfm2_moe": ["<|tool_call_start|>"],
    "jamba": ["<tool_calls>"], "minimax": ["<tool_calls>"], "deepseek_v2": [], "glm4_moe_lite": ["<arg_key>"], "gpt_oss": ["<|channel|>"],
    "deepseek_v3": ["<｜tool▁calls▁begin｜>", "<|tool_calls_section_begin|>"]}


def families():
    return re.findall(r"\n    X\((\w+)\)", (ROOT / "src" / "families" / "families.c").read_text())


def opening(family):
    """The models and what they are, from the file's first comment: "families/x.c: MODELS: WHAT. Mathematics: …"."""
    source = (ROOT / "src" / "families" / f"{family}.c").read_text()
    comment = re.sub(r"\s*\n \* ?", " ", source[3:source.index("*/")]).strip()
    found = re.match(rf"families/{family}\.c: (.*?): (.*?)\.? Mathematics: ", comment)
    if not found:
        sys.exit(f"src/families/{family}.c: it does not begin with the models, what they are, and where the mathematics is from")
    names = re.search(r"\.architectures = \(const char \*const\[\]\)\{(.*?), NULL\}", source, re.S)[1]
    return found[1], re.sub(r"\. .*", "", found[2]), re.findall(r'"(\w+)"', names)


def info(model):
    result = subprocess.run([PROGRAM, "info", model, "--json"], capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout)


def call_format(model, mark):
    """What the program makes of a template that has this mark."""
    with tempfile.TemporaryDirectory() as path:
        for file in model.iterdir():
            if not file.name.startswith("expected"):
                (pathlib.Path(path) / file.name).symlink_to(file)
        (pathlib.Path(path) / "chat_template.jinja").write_text("{# " + mark + " #}{{ messages[0].content }}")
        return info(path)["tool_format"]


def calls(family, model):
    if family not in MARKS:
        sys.exit(f"tools/families_table.py does not say how {family} marks a tool call")
    formats = list(dict.fromkeys(call_format(model, mark) for mark in MARKS[family]))
    known = [name for name in formats if name != "none"]
    return " or ".join(known) if known else "as text" if formats else "none published"


def short(form):
    """ "4-bit group 64" as "4-bit". """
    return re.sub(r" group \d+", "", form)


def row(family, cases):
    what, differs, architectures = opening(family)
    expected = [json.loads((case / "expected.json").read_text()) for case in cases]
    expected = [e for e in expected if "versions" in e]
    forms = {}
    for case in cases:
        said = info(case)
        if said["family"] != family:
            sys.exit(f"{case}: the program takes it for {said['family']}, not {family}")
        for part in said["parts"]:
            if part["what"] == "experts":
                forms[short(part["format"])] = None
    version = sorted({e["versions"]["transformers"] for e in expected})
    checked = f"{len(cases)} models, transformers {' and '.join(version)}"
    if any("transformers_and_mlx_logits" in e["largest_difference"] for e in expected):
        checked += f", mlx-lm {sorted({e['versions']['mlx-lm'] for e in expected})[-1]}"
    wide = sorted(f for f in forms if not re.match(r"\d", f))
    narrow = sorted((f for f in forms if re.match(r"\d", f)), key=lambda f: int(f.split("-")[0]))
    bits = [f.split("-")[0] for f in narrow]
    experts = ", ".join(wide + ([f"{', '.join(bits)} bits"] if bits else []))
    return f"| {family} | {what} | {', '.join(architectures)} | {differs} | {experts} | {calls(family, cases[0])} | {checked} |"


def table():
    lines = ["| family | models | architectures | what runs | experts in place, as tested | tool calls | compared with |", "|---|---|---|---|---|---|---|"]
    names = families()
    for family in sorted(names):
        cases = sorted(path for path in GOLDEN.glob(f"{family}-*") if (path / "expected.json").exists() and any(path.glob("model*.safetensors")))
        if not cases:
            sys.exit(f"tests/golden has no model of {family}")
        lines.append(row(family, cases))
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", metavar="FILE")
    file = parser.parse_args().write
    if not file:
        return print(table(), end="")
    text = pathlib.Path(file).read_text()
    before, after = text.split(BEGIN + "\n")[0], text.split(END)[1]
    pathlib.Path(file).write_text(before + BEGIN + "\n" + table() + END + after)


if __name__ == "__main__":
    main()
