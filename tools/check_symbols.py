#!/usr/bin/env python3
"""What the library shows and uses (DESIGN.md, section 7): check_symbols.py SYMBOLS HEADER… libflash-moe.so libflash-moe.a.

The shared library exports exactly the headers' FM_API functions, each under a version, and they are those that the file SYMBOLS lists, so that no interface changes
by the way (`check_symbols.py --write SYMBOLS HEADER…` writes it); it imports nothing that prints, exits or reads the environment, and the archive's objects
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


def functions(headers):
    text = re.sub(r"/\*.*?\*/", "", "".join(Path(header).read_text() for header in headers), flags=re.S)
    return set(re.findall(r"\b(fm_\w+)\s*\(", "".join(re.findall(r"FM_API\b(?!\s*__)[^;]*;", text))))


def main(*paths):
    if paths[0] == "--write":
        Path(paths[1]).write_text("".join(f"{name}\n" for name in sorted(functions(paths[2:]))))
        return 0
    listed, *headers, shared, static = paths
    declared, listed = functions(headers), set(Path(listed).read_text().split())
    unversioned = [line for line in nm("-D", "--defined-only", shared) if " A " not in line and "@@FLASH_MOE_" not in line]
    exported = {line.split()[-1].split("@")[0] for line in nm("-D", "--defined-only", shared) if " A " not in line}
    imported = {line.split()[-1].split("@")[0] for line in nm("-D", "--undefined-only", shared)}
    wrong = [f"{name} is declared, the library lacks it" for name in sorted(declared - exported)]
    wrong += [f"{name} is exported, no public header declares it" for name in sorted(exported - declared)]
    wrong += [f"{name} is new in the interface: write the list of symbols again if that is meant" for name in sorted(declared - listed)]
    wrong += [f"{name} has left the interface: programs that call it will not start" for name in sorted(listed - declared)]
    wrong += [f"it has no version: {line}" for line in unversioned]
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
