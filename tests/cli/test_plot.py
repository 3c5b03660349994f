"""tools/plot.py: draws what `bench --csv` wrote, and refuses what it did not."""
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
