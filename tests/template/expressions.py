"""Small templates against jinja2: expressions.py RENDER cases|random.

cases: tests/template/cases.txt, a template a line, in which ⏎ is a newline. random: what grammar.py makes of the seeds from SEED on, CASES of them.
"""
import os
import sys
from pathlib import Path

import driver
import grammar

# What this interpreter names and refuses where jinja2 goes on.
UNSUPPORTED = (r"a whole number beyond 64 bits", r"a complex number", r"\\N in a string", r"'\w+' of '(int|float|bool)' is not known", r"'(encode|maketrans|translate)' of 'str'",
               r"the filter '(random|urlize)'", r"the character reference", r"an? \w+ has no text of its own", r"the variable 'self'", r"the tag '(block|autoescape)'",
               r"object is not subscriptable$",  # jinja2 takes (1)[:2] for undefined, but only where it folds constants
               r"Can only get item pairs from a mapping\.?$")  # which its generator says only when it is read
BATCH = 1000


def fixed(comparison):
    lines = (Path(__file__).parent / "cases.txt").read_bytes().decode().split("\n")
    jobs = [(f"cases.txt:{number}", line.replace("⏎", "\n"), grammar.VARIABLES) for number, line in enumerate(lines, 1) if line and not line.startswith("##")]
    comparison.run(jobs)


def generated(comparison):
    seed, cases = int(os.environ.get("SEED", 0)), int(os.environ.get("CASES", 3000))
    for begin in range(seed, seed + cases, BATCH):
        comparison.run([(f"seed {n}", grammar.template(n), grammar.VARIABLES) for n in range(begin, min(begin + BATCH, seed + cases))])


def main(program, which):
    comparison = driver.Comparison(program, UNSUPPORTED)
    (fixed if which == "cases" else generated)(comparison)
    return comparison.report(int(os.environ.get("SHOW", 20)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
