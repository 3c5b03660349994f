"""Every chat template that is there, over generated conversations, against jinja2, byte for byte.

differential.py RENDER own|shared [ROOT]: own are the templates of this repository, shared those of published checkpoints beside it (../shared/templates; skipped where absent).
PAIRS is how many conversations each template gets, SEED where they begin; 77 is a skip.
"""
import os
import sys
from pathlib import Path

import conversations
import driver

BATCH = 250  # conversations


def main(program, which, root):
    here = Path(__file__).resolve().parent
    if which == "own":
        paths = [root / "models/ember/chat_template.jinja", *sorted((here / "own").glob("*.jinja"))]
    else:
        found = [d / "shared/templates" for d in (root.parent, *root.resolve().parents) if (d / "shared/templates").is_dir()]
        paths = sorted(found[0].glob("*.jinja")) if found else []
        if not paths:
            print("skipped: no ../shared/templates (chat templates of published checkpoints)")
            return 77
    pairs, seed = int(os.environ.get("PAIRS", 250 if which == "own" else 600)), int(os.environ.get("SEED", 0))
    comparison = driver.Comparison(program)
    rendered = {path.name: 0 for path in paths}
    for begin in range(seed, seed + pairs, BATCH):
        numbers = range(begin, min(begin + BATCH, seed + pairs))
        made = [(number, conversations.conversation(number)) for number in numbers]
        for path in paths:
            source = path.read_bytes().decode()  # with its carriage returns
            before = comparison.texts
            comparison.run([(f"{path.name}, seed {number}", source, variables) for number, variables in made])
            rendered[path.name] += comparison.texts - before
    for name, texts in rendered.items():
        print(f"{name}: {texts} of {pairs} give text")
        if not texts:
            comparison.differences.append(f"{name} never rendered")
    return comparison.report()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3] if len(sys.argv) > 3 else Path(__file__).resolve().parents[2])))
