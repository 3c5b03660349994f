"""tools/python_cost.py: its statistics, and that both of its programs write the same. No time is judged here."""
import json
import random
import re
import subprocess
import sys

import pytest

import flash_moe
from conftest import EMBER, ROOT, TINY

TOOL = ROOT / "tools" / "python_cost.py"
sys.path.insert(0, str(TOOL.parent))
import python_cost  # noqa: E402


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_ratios_are_of_whole_rounds():
    ratios, differences = python_cost.round_figures([(1000, 1100, 1300, 1400), (2000, 2000, 2000, 2000)], 10)
    assert ratios == [1.0, 1.0] and differences == [0.0, 0.0]  # a drift that is steady cancels
    ratios, differences = python_cost.round_figures([(10000, 11000, 11000, 10000)], 2)
    assert ratios == [1.1] and differences == [0.5]


def test_the_interval_holds_what_is_true():
    chance = random.Random(2)
    inside = 0
    for i in range(40):
        low, high = python_cost.interval([chance.gauss(1.02, 0.01) for _ in range(100)], samples=200, seed=i)
        assert 1 < low < high < 1.04
        inside += low <= 1.02 <= high
    assert 33 <= inside <= 40
    assert python_cost.interval([1.5]) == (1.5, 1.5)


def test_neighbours_that_are_alike_say_less():
    chance = random.Random(4)
    values = [chance.gauss(v, 0.001) for _ in range(20) for v in [chance.gauss(1, 0.01)] * 20]
    width = [high - low for low, high in (python_cost.interval(values, samples=400), python_cost.interval(chance.sample(values, len(values)), samples=400))]
    assert width[0] > 1.5 * width[1]


def test_the_summary():
    blocks = [(1000, 1010, 1010, 1000)] * 19 + [(1000, 9000, 9000, 1000)]
    made = python_cost.summary(blocks, 1, [3.0, 5.0, 4.0])
    assert made["ratio"] == pytest.approx(1.01) and made["ratio_95"] == pytest.approx((1.01, 1.01)) and made["fast_ratio"] == pytest.approx(1.01)
    assert (made["c_us"], made["other_us"]) == (1.0, 1.01) and made["outside_us"] == {"median": 4.0, "p10": 3.0, "p90": 5.0}


def test_both_write_the_same_as_a_session():
    made = run(EMBER, "--memory", "64M", "--rounds", 2, "--tokens", 3, "--json")
    assert made.returncode == 0, made.stderr
    r = json.loads(made.stdout)
    assert r["against"] == "Python" and (r["rounds"], r["tokens"]) == (2, 3) and len(r["ids"]) == 6 * (2 + python_cost.WARM)
    with flash_moe.Session(EMBER, memory="64M", context=256) as session:
        tokens = session.stream(python_cost.PROMPT, max_tokens=len(r["ids"]), temperature=0, logit_bias={0: -100, 2: -100})
        assert [t.token for t in tokens] == r["ids"]
    assert r["ratio_95"][0] <= r["ratio"] <= r["ratio_95"][1] and r["c_us"] > 0 < r["outside_us"]["median"] <= r["outside_us"]["p90"]


def test_what_it_prints():
    made = run(EMBER, "--memory", "64M", "--rounds", 1, "--tokens", 2, "--threads", 1, "--aa")
    assert made.returncode == 0, made.stderr
    assert "1 rounds of 2 x 2 tokens, 1 threads" in made.stdout and re.search(r"^second C +[\d.]+ us a token$", made.stdout, flags=re.M)
    assert re.search(r"^cost [+-][\d.]+ % of C's token \(95 %: [+-][\d.]+ to [+-][\d.]+\), [+-][\d.]+ us a token", made.stdout, flags=re.M) and "outside" not in made.stdout


def test_what_it_refuses(tmp_path):
    for arguments, sentence in (((EMBER, "--tokens", 0), "--tokens 1 to 4096"), (("none",), "none: there is no such directory"),
                                ((EMBER, "--build", tmp_path), "there is no library built by Meson"), ((TINY, "--memory", "1M"), "does not fit in 1 MiB")):
        made = run(*arguments)
        assert made.returncode != 0 and sentence in made.stderr and not made.stdout and "Traceback" not in made.stderr, made.stderr
