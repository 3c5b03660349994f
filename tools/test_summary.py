#!/usr/bin/env python3
"""The end of `make test`: reads Meson's logs (testlog.json), says what was skipped and why and what failed, and closes with one plain line.

    test_summary.py [--skipped "name: reason"]… LOG…

A C program is one test; a pytest run counts as what pytest counted. A log that is not there is a failure: its tests did not run.
"""
import json
import re
import sys
from pathlib import Path


def pytest_counts(text):
    """(passed, failed, skipped) from the last line of a pytest run, or None."""
    lines = text.strip().splitlines()
    if not lines or not re.search(r"\d+ (passed|failed|skipped|errors?)\b.* in [\d.]+s", lines[-1]):
        return None
    count = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|xfailed|xpassed|error)", lines[-1])}
    return count.get("passed", 0) + count.get("xfailed", 0), sum(count.get(x, 0) for x in ("failed", "error", "xpassed")), count.get("skipped", 0)


def main(arguments):
    passed, failed, skipped = 0, [], []
    while arguments[:1] == ["--skipped"]:
        skipped.append(arguments[1])
        arguments = arguments[2:]
    for log in map(Path, arguments):
        where = log.parent.parent.name
        if not log.is_file():
            failed.append(f"{where}: no {log}, its tests did not run")
            continue
        for line in log.read_text().splitlines():
            test = json.loads(line)
            name, result = f"{where}: {test['name'].split(':')[-1]}", test["result"]
            output = test.get("stdout", "") + "\n" + test.get("stderr", "")
            counts = pytest_counts(test.get("stdout", ""))
            if counts and result in ("OK", "FAIL"):
                passed += counts[0]
                failed += [f"{name}: {x}" for x in re.findall(r"^(?:FAILED|ERROR) (.*)", output, re.M)[:counts[1]]]
                failed += [name] * (counts[1] - len([x for x in failed if x.startswith(name + ":")]))
                reasons = [(int(n), why) for n, why in re.findall(r"^SKIPPED \[(\d+)\] (.*)", output, re.M)]
                skipped += [f"{name}: {why}" for n, why in reasons for _ in range(n)]
                skipped += [name] * (counts[2] - sum(n for n, _ in reasons))
                if result == "FAIL" and not counts[1]:
                    failed.append(name)
            elif result in ("OK", "EXPECTEDFAIL"):
                passed += 1
            elif result == "SKIP":
                why = re.findall(r"skipped: (.*)", output)
                skipped.append(f"{name}: {why[-1] if why else 'gave no reason'}")
            else:
                failed.append(f"{name} ({result})")
    for line in sorted(set(skipped)):
        print("skipped", line)
    for line in failed:
        print("FAILED", line)
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
