#!/usr/bin/env python3
"""What the library shows and uses (DESIGN.md, section 7): check_symbols.py HEADER… libflash-moe.so libflash-moe.a.

The shared library exports exactly the headers' FM_API functions, imports nothing that prints, exits or reads the environment, and the archive's objects
have no mutable data.
"""
import re
import subprocess
import sys
from pathlib import Path

FORBIDDEN = set("printf vprintf puts putchar fputs perror exit _exit quick_exit system popen getenv secure_getenv setenv putenv signal sigaction rand srand "
                "random srandom strtok localtime gmtime setlocale stdout stdin stderr".split())


def nm(*arguments):
    return subprocess.run(["nm", *arguments], check=True, capture_output=True, text=True).stdout.splitlines()


def main(*paths):
    *headers, shared, static = paths
    text = re.sub(r"/\*.*?\*/", "", "".join(Path(header).read_text() for header in headers), flags=re.S)
    declared = set(re.findall(r"\b(fm_\w+)\s*\(", "".join(re.findall(r"FM_API\b(?!\s*__)[^;]*;", text))))
    exported = {line.split()[-1] for line in nm("-D", "--defined-only", shared)}
    imported = {line.split()[-1].split("@")[0] for line in nm("-D", "--undefined-only", shared)}
    wrong = [f"{name} is declared, the library lacks it" for name in sorted(declared - exported)]
    wrong += [f"{name} is exported, no public header declares it" for name in sorted(exported - declared)]
    wrong += [f"the library calls {name}" for name in sorted(imported & FORBIDDEN)]
    # Constant tables of pointers lie in .data.rel.ro; what lies in .data or .bss can change.
    for line in nm("-f", "sysv", static):
        column = [x.strip() for x in line.split("|")]
        if len(column) == 7 and re.match(r"\.(data(?!\.rel\.ro)|bss|tdata|tbss)|\*COM\*", column[6]):
            wrong.append(f"{column[0]} is mutable data that outlives a call ({column[6]})")
    print("\n".join(wrong) if wrong else f"symbols: {len(exported)} exported")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
