"""--session-cache: a long prompt is not read again by the next start, and says the same."""
import json

from conftest import EMBER, flash_moe

TEXT = "Once upon a time there was a small robot who lived in a house by the sea. " * 60


def run(directory, *options, text=TEXT):
    result = flash_moe("run", EMBER, "--raw", "-p", text, "-n", "12", "--temp", "0", "--context", "4096", "--json", "--session-cache", directory, *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.suffix in (".snapshot", ".page"))


def test_the_next_start_finds_it(tmp_path):
    cache = tmp_path / "made" / "cache"
    first, said = run(cache)
    assert first["prompt_tokens"] > 800 and first["prompt_kept"] == 0 and files(cache)
    assert "session cache" not in said
    again, said = run(cache)
    assert again["prompt_kept"] > 0.9 * first["prompt_tokens"] and again["text"] == first["text"]
    assert f"{again['prompt_kept']} of them from the session cache" in said
    other, _ = run(cache, text=TEXT + "Then another robot came.")
    assert other["prompt_kept"] > 0.9 * first["prompt_tokens"]
    assert other["text"] == run("off", text=TEXT + "Then another robot came.")[0]["text"]


def test_off_is_off(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run("off")
    assert run("off")[0]["prompt_kept"] == 0 and not list(tmp_path.rglob("*sessions*"))


def test_the_default_is_in_the_cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = flash_moe("run", EMBER, "--raw", "-p", TEXT, "-n", "1", "--context", "4096")
    assert result.returncode == 0 and files(tmp_path / "flash-moe" / "sessions")


def test_size(tmp_path):
    run(tmp_path, "--session-cache-size", "3M")
    for i in range(3):
        run(tmp_path, "--session-cache-size", "3M", text=f"{i} " + TEXT)
        assert 0 < sum(path.stat().st_size for path in files(tmp_path)) <= 3 << 20


def test_a_short_prompt_writes_nothing(tmp_path):
    run(tmp_path, text="Once")
    assert not files(tmp_path)
