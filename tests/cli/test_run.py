"""`flash-moe run` with models/ember."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

from conftest import EMBER, PROGRAM, flash_moe

KEYS = {
    "text", "tokens", "prompt_tokens", "stop", "seed", "total_seconds", "prompt_seconds", "first_token_seconds", "decode_seconds", "tokens_per_second",
    "prompt_tokens_per_second", "hit_rate", "read_bytes_per_token", "disk_bytes_per_second", "disk_bytes", "disk_seconds", "stall_seconds", "memory_peak_bytes",
    "approximation", "n_left_out", "n_narrow", "memory_budget_bytes", "session_bytes", "kv", "n_slots", "n_experts_total", "n_guessed", "prompt_kept", "n_guesses_used", "cpu", "io", "n_threads", "phase_seconds",
}
SUMMARY = re.compile(r"^(\d+) tokens in [\d.]+ s, [\d.]+ tokens/s, first token after [\d.]+ s \(prompt (\d+) tokens, [\d.]+ tokens/s\), "
                     r"hit rate [\d.]+ %, [\d.]+ (?:bytes|kB|MB) read per token, [\d.]+ GB/s from disk$", re.M)


def run(*arguments, **more):
    result = flash_moe("run", EMBER, "--raw", *arguments, **more)
    assert result.returncode == 0, result.stderr
    return result


def run_json(*arguments, **more):
    return json.loads(run("--json", *arguments, **more).stdout)


@pytest.fixture(autouse=True)
def needs_ember(ember):
    pass


def test_text_and_summary_in_one_file():
    command = [PROGRAM, "run", str(EMBER), "--raw", "--temp", "0", "-n", "4", "-p", "Once upon a time"]
    apart = subprocess.run(command, capture_output=True, text=True, timeout=120)
    together = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert apart.returncode == together.returncode == 0
    assert apart.stdout and not apart.stdout.endswith("\n")
    assert together.stdout.startswith(apart.stdout + "\n") and SUMMARY.search(together.stdout), together.stdout


def references():
    path = EMBER / "reference.json"
    return json.loads(path.read_text())["prompts"] if path.exists() else []


@pytest.mark.parametrize("reference", references(), ids=lambda r: r["prompt"][-24:].strip())
def test_greedy_text_is_that_of_transformers(reference):
    """Float32 activations, as there; the reference shows the end of the turn, which run does not."""
    n = 100
    text = run("-p", reference["prompt"], "--temp", 0, "-n", n, "--activations", "f32", "--kv", "f32").stdout
    expected = reference["greedy"].removesuffix("<|im_end|>")
    assert text[:len(expected)] == expected or expected.startswith(text), text
    assert len(text) > 10


def test_json():
    r = run_json("-p", "Once upon a time", "-n", 40, "--temp", 0, "--seed", 5)
    assert set(r) == KEYS
    assert (r["tokens"], r["stop"], r["seed"]) == (40, "length", 5)
    assert r["text"] == run("-p", "Once upon a time", "-n", 40, "--temp", 0).stdout
    assert 3 <= r["prompt_tokens"] <= 10
    assert r["total_seconds"] == pytest.approx(r["first_token_seconds"] + r["decode_seconds"])
    assert 0 < r["prompt_seconds"] <= r["first_token_seconds"]
    assert r["tokens_per_second"] == pytest.approx(39 / r["decode_seconds"])
    assert 0 <= r["hit_rate"] <= 1
    assert r["memory_peak_bytes"] > 1 << 20
    assert sum(r["phase_seconds"].values()) <= r["total_seconds"] * 1.05 + 0.01


def test_summary_line():
    result = run("-p", "Once upon a time", "-n", 12, "--temp", 0)
    match = SUMMARY.search(result.stderr)
    assert match and match[1] == "12", result.stderr
    assert result.stderr.count("\n") == 1
    assert "\033" not in result.stderr and "\r" not in result.stderr


def test_stats_and_timing():
    lines = run("-p", "Once", "-n", 3, "--seed", 77, "--stats", "--timing").stderr
    for start in ("memory: budget ", "experts: ", "disk: ", "cpu: ", "sampling: "):
        assert re.search(rf"^{start}", lines, re.M), start
    assert "seed 77" in lines
    phases = re.findall(r"^  ([a-z -]+?) +([\d.]+) s +([\d.]+) % +[\d.]+ ms$", lines, re.M)
    assert phases[-1][0] == "all" and len(phases) == 10
    assert sum(float(share) for _, _, share in phases[:-1]) == pytest.approx(100, abs=1)


def test_the_prompt_comes_from_anywhere(tmp_path):
    prompt = "One day a small robot"
    (tmp_path / "prompt.txt").write_text(prompt)
    expected = run("-p", prompt, "-n", 20, "--temp", 0).stdout
    assert len(expected) > 20
    assert run("-f", tmp_path / "prompt.txt", "-n", 20, "--temp", 0).stdout == expected
    assert run("-", "-n", 20, "--temp", 0, input=prompt).stdout == expected
    assert run("-f", "-", "-n", 20, "--temp", 0, input=prompt).stdout == expected


def test_special_tokens_are_recognised():
    turn = "<|im_start|>user\nWhat is the capital of Norway?<|im_end|>\n<|im_start|>assistant\n"
    r = run_json("-p", turn, "--temp", 0, "-n", 50)
    assert r["stop"] == "eos" and "Oslo" in r["text"]
    assert r["prompt_tokens"] < len(turn) / 3
    assert "<|im_end|>" not in r["text"]
    assert run_json("-p", turn, "--temp", 0, "-n", 50, "--ignore-eos")["tokens"] == 50


def test_lengths():
    assert run_json("-p", "Once", "-n", 0)["text"] == ""
    assert run_json("-p", "Once", "-n", 1, "--ignore-eos")["tokens"] == 1
    full = run_json("-p", "Once upon a time", "--context", 32, "--ignore-eos", "--temp", 0)
    assert full["stop"] == "length"
    # The last token is chosen, but has no place any more.
    assert full["prompt_tokens"] + full["tokens"] in (32, 33)


def test_stop_strings():
    whole = run("-p", "Once upon a time", "-n", 60, "--temp", 0).stdout
    word = whole.split()[8]
    r = run_json("-p", "Once upon a time", "-n", 60, "--temp", 0, "--stop", "never in it", "--stop", word)
    assert r["stop"] == "string"
    assert r["text"] == whole[:whole.index(word)]


def test_seeds():
    def text(seed, *more):
        return run("-p", "Once upon a time", "-n", 60, "--temp", 1.5, "--top-k", 0, "--top-p", 1, "--seed", seed, "--ignore-eos", *more).stdout
    one = text(1)
    assert one == text(1)
    assert one == text(1, "--threads", 1)
    assert one == text(1, "--threads", 3)
    assert len({one, text(2), text(3)}) == 3
    unseeded = [run_json("-p", "Once", "-n", 1)["seed"] for _ in range(3)]
    assert len(set(unseeded)) == 3


def test_the_text_does_not_depend_on_the_memory():
    arguments = ["-p", "Once upon a time", "-n", 60, "--temp", 0, "--context", 256]
    plan = json.loads(flash_moe("plan", EMBER, "--no-measure", "--json", "--context", 256).stdout)
    small = run_json(*arguments, "--memory", plan["floor_bytes"] + (1 << 20))
    big = run_json(*arguments)
    assert small["text"] == big["text"]
    assert small["n_slots"] < big["n_slots"] or plan["floor_bytes"] + (1 << 20) >= big["memory_budget_bytes"]
    assert small["disk_bytes"] >= big["disk_bytes"]


def test_a_bias_forces_a_token():
    plain = run_json("-p", "Once upon a time", "-n", 4, "--temp", 0)
    forced = run_json("-p", "Once upon a time", "-n", 4, "--temp", 0, "--logit-bias", "100=1000", "--ignore-eos")
    assert forced["text"] != plain["text"]
    assert forced["text"][:len(forced["text"]) // 4] * 4 == forced["text"]


def test_greedy_is_top_k_1_and_needs_no_seed():
    assert run("-p", "Once", "-n", 30, "--temp", 0, "--seed", 1).stdout == run("-p", "Once", "-n", 30, "--top-k", 1, "--temp", 2, "--seed", 2).stdout


@pytest.mark.skipif(bool(os.environ.get("FLASH_MOE_SANITIZE", "none") != "none"), reason="a sanitizer needs memory of its own")
def test_memory_stays_in_the_budget():
    for budget in (64 << 20, 128 << 20):
        r = run_json("-p", "Once upon a time", "-n", 100, "--temp", 0, "--memory", budget, "--context", 1024)
        assert r["memory_budget_bytes"] == budget
        assert r["memory_peak_bytes"] <= budget


# ---- ending early ----

def start(*arguments, **more):
    return subprocess.Popen([PROGRAM, "run", str(EMBER), "--raw", "--ignore-eos", "--context", "32768", "-p", "Once upon a time", *arguments],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_cleanly(number):
    process = start()
    first = process.stdout.read(20)
    process.send_signal(number)
    rest, errors = process.communicate(timeout=20)  # it would go on for minutes
    assert process.returncode == 130, errors
    assert len(first) == 20
    match = SUMMARY.search(errors.decode())
    assert match and int(match[1]) >= 1, errors
    assert (first + rest).decode()  # whole characters


def test_ctrl_c_with_json():
    process = start("--json")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    if output:  # else it was still loading
        r = json.loads(output)
        assert r["stop"] == "cancelled" and r["tokens"] > 0 and len(r["text"]) > r["tokens"]


def test_a_closed_pipe_ends_quietly():
    process = start()
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=20) == 0
    errors = process.stderr.read().decode().splitlines()
    assert all(line.startswith("flash-moe: warning: ") for line in errors), errors


def test_a_full_disk_is_an_error():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        result = subprocess.run([PROGRAM, "run", EMBER, "--raw", "-p", "Once", "-n", "5"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "flash-moe: cannot write to standard output: No space left on device."


def test_a_terminal_sees_progress_and_ctrl_c_ends_a_prompt():
    """stderr is a terminal; the prompt is long enough to be interrupted."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([PROGRAM, "run", EMBER, "--raw", "-f", EMBER / "held-out.txt", "--context", "65536", "-n", "1"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen, sent, deadline = "", False, time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            try:
                got = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            seen += got.decode()
        if not sent and "reading the prompt: " in seen:
            process.send_signal(signal.SIGINT)
            sent = True
        if process.poll() is not None and not select.select([ours], [], [], 0)[0]:
            break
    assert process.wait(timeout=20) == 130, seen
    assert sent, seen
    assert re.search(r"\r\033\[Kreading the prompt: \d+ of \d+ tokens", seen)
    assert re.search(r"\r\033\[K0 tokens in ", seen), "the line is removed before the summary"
    process.stdout.close()
    os.close(ours)
