#!/usr/bin/env python3
"""Who may include whom (DESIGN.md, section 3), and names of model families only where they belong: check_layers.py [ROOT]."""
import re
import sys
from pathlib import Path

# A folder's own files and the public headers are always allowed; a folder that is not in the table is an error.
MAY_INCLUDE = {
    "base": "",
    "text": "base",
    "formats": "base",
    "experts": "base",
    "model": "base formats experts",
    "families": "base formats model",
    "cpu": "base formats experts model cpu/isa",
    "cpu/isa": "base formats",
    "cpu/isa/arm": "base formats cpu/isa",
    "cpu/isa/x86": "base formats cpu/isa",
    "snapshots": "base formats model",
    "engine": "base text formats experts model families cpu cpu/isa snapshots",
    "template": "base template/value template/library",
    "template/value": "base",
    "template/library": "base template/value",
    "template/filters": "base template/value template/library",
    "chat": "base text template engine",
    "chat/calls": "base chat",
    "prepare": "base text formats experts model families",
    "prepare/quantise": "base formats",
    "prepare/pack": "base text formats experts model families prepare prepare/quantise",
    "hub": "base formats model families prepare/pack",
    "measure": "base text formats experts model families cpu cpu/isa snapshots engine",
    "serve": "serve/api serve/page",
    "serve/api": "serve",
    "serve/api/anthropic": "serve serve/api",
    "serve/api/responses": "serve serve/api",
    "serve/answers": "serve",
    "serve/page": "serve",
    "cli": "serve",
    "cli/talk": "serve cli",
    "cli/models": "serve cli",
    "cli/measure": "serve cli",
    "cli/chat": "serve cli cli/remote",
    "cli/remote": "cli hub",  # hub/curl.h only: one way to load libcurl
    "cli/serve": "serve cli",
}
PUBLIC = ("flash_moe.h", "flash_moe_tools.h")
NAMES = re.compile(r"qwen|mixtral|deepseek|\bglm|olmoe|gpt.?oss|llama|minimax|kimi|granite|ernie|jamba|lfm2|hunyuan|phimoe", re.I)


def main(root):
    wrong = []
    src = root / "src"
    for path in sorted(src.rglob("*.[ch]")):
        folder = str(path.parent.relative_to(src))
        if folder not in MAY_INCLUDE:
            wrong.append(f"{path.relative_to(root)}: src/{folder} is in no layer; add it to tools/check_layers.py and DESIGN.md")
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{path.relative_to(root)}:{number}"
            include = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if include and include[1] not in PUBLIC:
                target = src / include[1] if "/" in include[1] else path.parent / include[1]
                to = str(Path(include[1]).parent) if "/" in include[1] else folder
                if ".." in include[1] or not target.is_file():
                    wrong.append(f'{where}: "{include[1]}" is no file of src/ or of its own folder')
                elif to != folder and to not in MAY_INCLUDE[folder].split():
                    wrong.append(f"{where}: {folder} may not include {to} ({include[1]})")
            name = NAMES.search(line)
            if name and folder not in ("families", "text", "chat", "chat/calls") and path.name != "shapes.c":
                wrong.append(f"{where}: the family name '{name[0]}' belongs in families/ or text/")
    print("\n".join(wrong) if wrong else "layers: as drawn")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
