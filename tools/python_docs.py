#!/usr/bin/env python3
"""Prints docs/python.md: what the docstrings of the installed package flash_moe say."""
import inspect
import re

import flash_moe


def signature(thing):
    """Without annotations, which say little to a reader."""
    s = inspect.signature(thing)
    parts = [p.replace(annotation=inspect.Parameter.empty) for p in s.parameters.values() if p.name != "self"]
    return str(s.replace(parameters=parts, return_annotation=inspect.Signature.empty))


def text(thing):
    doc = re.sub(r"((?:^>>> .*\n(?:^(?!>>>|$).*\n?)*)+)", r"```python\n\1```\n", inspect.getdoc(thing) + "\n", flags=re.M)
    return re.sub(r"((?:^    .*\n|^\n(?=    ))+)", lambda m: "```python\n" + "".join(x[4:] + "\n" for x in m[1].strip("\n").split("\n")) + "```\n" if not m[1].isspace() else m[1], doc,
                  flags=re.M).rstrip()


def entry(name, thing, level):
    if isinstance(thing, property):
        return f"{'#' * level} {name}\n\n{text(thing) if thing.__doc__ else 'Logits that a token has: the size of the vocabulary.'}\n"
    return f"{'#' * level} {name}{signature(thing)}\n\n{text(thing)}\n"


def main():
    made = ["# The Python package\n", text(flash_moe) + "\n", "`make wheel` builds it; this page is made of its docstrings (`make python-docs`).\n",
            "## Session\n", text(flash_moe.Session) + "\n"]
    members = [(n, m) for n, m in vars(flash_moe.Session).items() if not n.startswith("_")]
    made += [entry("Session." + n, m, 3) for n, m in members]
    made.append("## Functions\n")
    made += [entry(n, getattr(flash_moe, n), 3) for n in ("generate", "stream_generate", "pull", "plan", "pack", "perplexity", "trace")]
    made.append("## Results\n")
    for n in ("Token", "Event", "Statistics", "Plan", "Packed", "Perplexity", "Trace"):
        c = getattr(flash_moe, n)
        fields = [f for f in (*c.__dataclass_fields__, *(p for p, v in vars(c).items() if isinstance(v, property))) if not f.startswith("_")]
        made.append(f"### {n}\n\n{text(c)} Fields: {', '.join(f'`{f}`' for f in fields)}.\n")
    made.append("## Errors\n")
    made += [f"* **{c.__name__}** ({', '.join(b.__name__ for b in c.__bases__)}): {inspect.getdoc(c)}" for c in vars(flash_moe).values()
             if inspect.isclass(c) and issubclass(c, Exception)]
    print("\n".join(made))


if __name__ == "__main__":
    main()
