"""tools/plot.py: draws what `bench --csv` wrote, and refuses what it did not."""
import json
import subprocess
import sys

import pytest

from conftest import EMBER, ROOT, flash_moe


def plot(*arguments):
    return subprocess.run([sys.executable, ROOT / "tools" / "plot.py", *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    if not (EMBER / "model.safetensors").exists():
        pytest.skip("models/ember has no model.safetensors")
    text = ""
    for commit in "aaaaaaa", "bbbbbbb":
        for memory in "18M", "20M":
            result = flash_moe("bench", EMBER, "--memory", memory, "--runs", 1, "--tokens", 4, "--prefill", 16, "--csv", "--commit", commit)
            assert result.returncode == 0, result.stderr
            text += result.stdout
    return "# a machine\n" + text


def test_draws(rows, tmp_path):
    (tmp_path / "machine.csv").write_text(rows)
    result = plot(tmp_path / "machine.csv", "-o", tmp_path / "plots")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {f"machine-{kind}.{end}" for kind in ("speed", "share", "history") for end in ("png", "svg")}
    for path in (tmp_path / "plots").glob("*.png"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 10000
    for path in (tmp_path / "plots").glob("*.svg"):
        assert "<svg" in path.read_text()[:1000]


def test_one_commit_has_no_history(rows, tmp_path):
    (tmp_path / "machine.csv").write_text("".join(line for line in rows.splitlines(True) if "bbbbbbb" not in line))
    assert plot(tmp_path / "machine.csv", "-o", tmp_path).returncode == 0
    assert (tmp_path / "machine-speed.svg").exists() and not (tmp_path / "machine-history.svg").exists()


@pytest.mark.parametrize("change, expected", [
    (lambda text: "", "no rows"),
    (lambda text: text.replace("share_of_limit", "share"), "share_of_limit"),
    (lambda text: text.replace(",warm,4,1,", ",warm,4,one,", 1), "runs is 'one'"),
    (lambda text: text.rstrip("\n")[:-60] + "\n", "values in"),
])
def test_refusals(rows, tmp_path, change, expected):
    (tmp_path / "machine.csv").write_text(change(rows))
    result = plot(tmp_path / "machine.csv", "-o", tmp_path)
    assert result.returncode == 1 and expected in result.stderr and "machine.csv" in result.stderr, result.stderr


def test_draws_a_profile(tmp_path):
    uses = [[(i * 7 + layer) % 11 for i in range(16)] for layer in range(3)]
    kinds = [{"name": name, "n_prompts": 1, "n_tokens": 20, "layers": {str(i): {"uses": row, "weights": row} for i, row in enumerate(uses)}} for name in ("code", "chat")]
    profile = {"format": "flash-moe profile", "version": 1, "n_layers": 3, "n_experts": 16, "top_k": 2, "kinds": kinds}
    (tmp_path / "new.json").write_text(json.dumps(profile))
    (tmp_path / "old.json").write_text(json.dumps({"num_prompts": 2, "num_experts": 8, "layers": {"0": {"universal": [1], "activation_counts": {"1": 2, "3": 1}}}}))
    (tmp_path / "replay.csv").write_text("experts,share,policy,part,hits,requests,hit_rate\n5,0.1,lfu,decoded,1,2,0.5\n9,0.2,lfu,decoded,3,4,0.75\n9,0.2,lfu,prompt,0,4,0\n")
    result = plot(tmp_path / "new.json", tmp_path / "old.json", "--replay", tmp_path / "replay.csv", "-o", tmp_path / "plots")
    assert result.returncode == 0, result.stderr
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {f"{name}-{kind}.{end}" for name in ("new", "old") for kind in ("heat", "concentration", "hits") for end in ("png", "svg")}
    for path in (tmp_path / "plots").glob("*.png"):
        assert path.stat().st_size > 10000
    for name, text in (("none.json", "{}"), ("cut.json", "{"), ("short.json", json.dumps({**profile, "n_experts": 15}))):
        (tmp_path / name).write_text(text)
        result = plot(tmp_path / name, "-o", tmp_path / "plots")
        assert result.returncode == 1 and name in result.stderr and "Traceback" not in result.stderr
