#!/usr/bin/env python3
"""The rules of thumb of DESIGN.md, section 3, for src, include, tests and tools: check_sizes.py [ROOT].

A file has at most 600 lines, a function 60 and 7 parameters (120 and any number in src/cpu/isa, where the table of kernels sets the form), a folder of src 12
sources, where a .c file and its header are one (but for src/families, where each family is a file of data). The sources are formatted by clang-format, so a function's head begins and its last brace stands in the first
column.
"""
import re
import sys
from pathlib import Path

FILE_LINES, FUNCTION_LINES, KERNEL_LINES, PARAMETERS, FOLDER_FILES = 600, 60, 120, 7, 12
CALLBACKS = {"fm_on_request"}  # whose parameters a library sets


def c_functions(lines):
    """(line of its head, lines, parameters, name) of each function."""
    head = None
    for number, line in enumerate(lines, 1):
        if re.match(r"[A-Za-z_]", line) and not line.startswith(("typedef", "struct", "enum", "union")) or re.match(r"(struct|enum) \w+ \*?\w+\(", line):
            head = number
        if line.startswith("}") and head:
            text = " ".join(lines[head - 1:number])
            found = re.match(r"[^=;{]*?(\w+)\(((?:[^()]|\([^()]*\))*)\)\s*\{", text)
            if found:
                depth0 = re.sub(r"\([^()]*\)", "", found[2])
                yield head, number - head + 1, 0 if depth0.strip() in ("", "void") else depth0.count(",") + 1, found[1]
            head = None


def main(root):
    wrong = []
    for top in ("src", "include", "tests", "tools"):
        for path in sorted((root / top).rglob("*")):
            name = path.relative_to(root)
            if top == "src" and path.is_dir() and path.name != "families":
                n = len({x.stem for x in path.iterdir() if x.suffix in (".c", ".h")})
                if n > FOLDER_FILES:
                    wrong.append(f"{name}: {n} sources, at most {FOLDER_FILES}")
            if path.suffix not in (".c", ".h", ".py", ".sh"):
                continue
            lines = path.read_text().splitlines()
            if len(lines) > FILE_LINES:
                wrong.append(f"{name}: {len(lines)} lines, at most {FILE_LINES}")
            if path.suffix in (".c", ".h"):
                kernels = str(name).startswith("src/cpu/isa")
                limit = KERNEL_LINES if kernels else FUNCTION_LINES
                for line, n, parameters, function in c_functions(lines):
                    if n > limit:
                        wrong.append(f"{name}:{line}: {function} has {n} lines, at most {limit}")
                    if parameters > PARAMETERS and top == "src" and not kernels and function not in CALLBACKS:
                        wrong.append(f"{name}:{line}: {function} has {parameters} parameters, at most {PARAMETERS}")
    print("\n".join(wrong) if wrong else "sizes: within the rules")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
