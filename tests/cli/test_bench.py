"""`bench` with models/ember: what it says is there and agrees with itself. No speed is judged."""
import csv
import io
import json
import math

import pytest

from conftest import EMBER, flash_moe

QUICK = ("--runs", 2, "--tokens", 8, "--prefill", 32, "--threads", 2)
DECODE = {"tokens_per_second", "hit_rate", "disk_bytes_per_token", "stall_seconds", "compute_seconds", "share_of_limit", "share_of_ideal"}
PREFILL = {"tokens", "tokens_per_second", "share_of_limit"}
K, LAYERS, EXPERTS = 6, 8, 64


@pytest.fixture(autouse=True)
def needs_ember(ember):
    pass


def bench(*arguments):
    result = flash_moe("bench", EMBER, *arguments)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def streamed():
    return json.loads(bench("--memory", "20M", *QUICK, "--json").stdout)


def check_case(case, keys):
    assert keys <= case.keys()
    for key in keys:
        assert math.isfinite(case[key]) and case[key] >= 0, (key, case)
    assert case["tokens_per_second"] > 0 and case["share_of_limit"] > 0 and 0 <= case["hit_rate"] <= 1
    spread = case["spread"]["tokens_per_second"]
    assert spread["min"] <= case["tokens_per_second"] == spread["median"] <= spread["max"]
    # What a run took, in two runs: the medians of its parts are not more than the slower of both.
    assert case["stall_seconds"] + case["compute_seconds"] <= 1.05 * case["tokens"] / spread["min"] + 0.001


def test_json(streamed):
    assert {"ram_gb_per_s", "disk_gb_per_s", "routing", "decode", "prefill"} <= streamed.keys()
    assert streamed["ram_gb_per_s"] > 0 and streamed["disk_gb_per_s"] > 0
    assert streamed["routing"] == "the model's own"
    assert set(streamed["decode"]) == {"warm", "cold", "rotating"}
    for case in streamed["decode"].values():
        check_case(case, DECODE)
        assert case["share_of_ideal"] > 0 and (case["tokens"], case["runs"]) == (8, 2)
    assert [case["tokens"] for case in streamed["prefill"]] == [32]
    for case in streamed["prefill"]:
        check_case(case, PREFILL)
    threads = streamed["machine"]["ram_gb_per_s_by_threads"]
    assert [rate["threads"] for rate in threads] == [1, 2] and threads[-1]["median"] == streamed["ram_gb_per_s"]
    reads = streamed["machine"]["disk_gb_per_s_by_reads"]
    assert reads[0]["reads_in_flight"] == 1 and max(rate["median"] for rate in reads) == streamed["disk_gb_per_s"]
    assert isinstance(streamed["warnings"], list) and streamed["model"]["n_slots"] < streamed["model"]["n_experts_total"]


def test_bytes_are_those_of_the_misses(streamed):
    """Each missed expert is read once, in aligned ranges around its nine parts."""
    expert = streamed["model"]["expert_disk_bytes"]
    for case in [*streamed["decode"].values()]:
        missed = (1 - case["hit_rate"]) * K * LAYERS * expert
        assert missed * 0.999 <= case["disk_bytes_per_token"] <= missed + (1 - case["hit_rate"]) * K * LAYERS * 9 * 8192
        # All that is read of dense weights and experts, and the missed ones written.
        assert case["ram_bytes_per_token"] > missed + K * LAYERS * expert
    assert streamed["decode"]["cold"]["hit_rate"] <= streamed["decode"]["warm"]["hit_rate"] + 0.1
    assert streamed["decode"]["cold"]["disk_bytes_per_token"] > 0


def test_resident():
    result = json.loads(bench("--memory", "200M", *QUICK, "--json").stdout)
    assert result["model"]["resident"]
    for name in "warm", "rotating":
        case = result["decode"][name]
        check_case(case, DECODE)
        assert case["hit_rate"] == 1 and case["disk_bytes_per_token"] == 0 and case["stall_seconds"] == 0
        assert case["share_of_limit"] == pytest.approx(case["share_of_ideal"]), "without misses both are the memory's"
    assert result["prefill"][0]["hit_rate"] == 1
    cold = result["decode"]["cold"]
    check_case(cold, DECODE)
    assert cold["hit_rate"] < 1 and cold["disk_bytes_per_token"] > 0, "the cache was not emptied"


def test_csv():
    text = bench("--memory", "20M", *QUICK, "--csv", "--commit", 'a "quoted", one', "--routing", "512x4").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["case"] for row in rows] == ["warm", "cold", "rotating", "prefill 32"]
    for row in rows:
        assert row["commit"] == 'a "quoted", one' and row["model"] == "ember" and int(row["memory_bytes"]) == 20 << 20
        assert "512x4" in row["routing"] and (row["tokens"], row["threads"]) == ("32" if "prefill" in row["case"] else "8", "2")
        assert 0 < float(row["tokens_per_second_min"]) <= float(row["tokens_per_second"]) <= float(row["tokens_per_second_max"])
        assert 0 <= float(row["hit_rate"]) <= 1 and float(row["share_of_limit"]) > 0
        assert (row["share_of_ideal"] == "") == row["case"].startswith("prefill")
        assert None not in row and None not in row.values()


def test_text_says_the_routing_and_what_was_measured():
    text = bench("--memory", "20M", *QUICK, "--routing", "uniform").stdout
    for expected in ("uniform", "2 threads", "GB/s", "in flight", "decode, warm", "decode, cold", "decode, rotating", "prefill of 32", "of limit", "of ideal",
                     "Gop/s"):
        assert expected in text, expected


def test_routing_changes_the_hits(tmp_path):
    """Every pick repeats one of the token before: after the first token nothing is missed."""
    same = tmp_path / "same.json"
    same.write_text('{"exponent": 0, "reuse": 1}')
    spread = tmp_path / "spread.json"
    spread.write_text('{"exponent": 0, "reuse": 0}')
    hits = {}
    for path in same, spread:
        result = json.loads(bench("--memory", "20M", *QUICK, "--json", "--routing", path).stdout)
        assert str(path) in result["routing"]
        hits[path] = result["decode"]["cold"]["hit_rate"]
    assert hits[same] == pytest.approx(7 / 8), "each of eight tokens but the first finds all its experts"
    assert hits[spread] < 0.7


@pytest.mark.parametrize("arguments, expected", [
    (("--routing", "nope"), "model, uniform, 128x8, 256x8, 512x10, 512x4"),
    (("--prefill", "32,x"), "--prefill"),
    (("--prefill", ""), "--prefill"),
    (("--prefill", "0"), "--prefill"),
    (("--prefill", "5000", "--context", "512"), "5000"),
    (("--tokens", "500", "--context", "512"), "500 tokens behind a prompt of 32"),
    (("--runs", "0"), "--runs"),
    (("--json", "--csv"), "--csv"),
    (("--commit", "a"), "--csv"),
])
def test_refusals(arguments, expected):
    result = flash_moe("bench", EMBER, "--memory", "20M", *arguments)
    assert result.returncode == 2 and result.stdout == "" and expected in result.stderr, result.stderr


def test_recorded_routing(tmp_path):
    prompts, trace = tmp_path / "prompts.txt", tmp_path / "a.trace"
    prompts.write_text("Once upon a time\n---\nThe sea was")
    recorded = flash_moe("trace", EMBER, "-f", prompts, "-n", 12, "--ignore-eos", "--memory", "20M", "-o", trace)
    assert recorded.returncode == 0, recorded.stderr
    result = json.loads(bench("--memory", "20M", *QUICK, "--json", "--routing", trace).stdout)
    assert result["routing"].startswith("recorded, ") and str(trace) in result["routing"]
    other = EMBER.parents[1] / "tests" / "golden" / "qwen3_5_moe-mlx-4bit"
    refused = flash_moe("bench", other, "--memory", "40M", "--context", "256", "--routing", trace)
    assert refused.returncode == 2 and "a trace of another model" in refused.stderr and refused.stdout == ""
    trace.write_bytes(trace.read_bytes()[:-9])
    damaged = flash_moe("bench", EMBER, "--memory", "20M", "--routing", trace)
    assert damaged.returncode == 1 and str(trace) in damaged.stderr


def test_routing_file_that_is_broken(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"exponent": 1, "reuse": 2}')
    result = flash_moe("bench", EMBER, "--memory", "20M", "--routing", path)
    assert result.returncode == 1 and str(path) in result.stderr and "reuse" in result.stderr and result.stdout == ""
