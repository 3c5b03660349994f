"""Packed models with two copies of each expert: what is not asked for changes nothing; narrow copies give what a model of that width gives; both are checked."""
import json
import os
import random
import signal
import subprocess
import time

import pytest

from conftest import EMBER, PROGRAM, flash_moe

HELD_OUT = EMBER / "held-out.txt"


@pytest.fixture(autouse=True)
def needs_ember(ember):
    pass


def pack(path, *options):
    result = flash_moe("pack", EMBER, "-o", path, *options)
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"two": pack(folder / "two", "--experts", "keep,2"), "wide": pack(folder / "wide"), "narrow": pack(folder / "narrow", "--experts", "2")}


def perplexity(model, *options):
    result = flash_moe("perplexity", model, "-f", HELD_OUT, "--tokens", "200", "--window", "100", "--memory", "18M", "--json", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_files(models):
    two, wide = models["two"], models["wide"]
    assert sorted(p.name for p in (two / "experts").iterdir()) == sorted(f"{kind}_{i:02}.bin" for kind in ("layer", "narrow") for i in range(8))
    described, plain = (json.loads((path / "model.json").read_text()) for path in (two, wide))
    assert described["version"] == plain["version"] == 1 and described["layers"] == plain["layers"] and "narrow" not in plain
    assert [layer["gate"]["bits"] for layer in described["narrow"]] == [2] * 8
    for i in range(8):
        assert (two / "experts" / f"layer_{i:02}.bin").read_bytes() == (wide / "experts" / f"layer_{i:02}.bin").read_bytes()
        assert (two / "experts" / f"narrow_{i:02}.bin").read_bytes() == (models["narrow"] / "experts" / f"layer_{i:02}.bin").read_bytes()
    result = flash_moe("verify", two)
    assert result.returncode == 0 and "1024 experts" in result.stdout


def test_info_and_plan_name_them(models):
    """Their width, their bytes on disk, and what --cold-bits saves at most, in both forms; nothing of it where there are none."""
    def shown(command, model, *options):
        text, whole = (flash_moe(command, models[model], *options, *more) for more in ((), ("--json",)))
        assert text.returncode == whole.returncode == 0, text.stderr
        return text.stdout, json.loads(whole.stdout)
    layers = json.loads((models["two"] / "model.json").read_text())
    one, n, k = layers["narrow"][0]["expert_bytes"], 8 * 64, 8 * json.loads((EMBER / "config.json").read_text())["text_config"]["num_experts_per_tok"]
    text, info = shown("info", "two")
    assert info["narrow"] == {"bits": 2, "expert_bytes": one, "experts_bytes": n * one}
    assert f"narrow copies  of 2 bits, one {one / 1024:.1f} KiB, all {n * one / 2 ** 20:.2f} MiB besides" in text, text
    assert sum((models["two"] / "experts" / f"narrow_{i:02}.bin").stat().st_size for i in range(8)) == n * (one + 8) + 8 * 8
    text, plan = shown("plan", "two", "--no-measure", "--memory", "18M")
    wide = layers["layers"][0]["expert_bytes"]
    assert plan["token_expert_bytes"] == k * wide
    assert plan["narrow"] == {"bits": 2, "expert_disk_bytes": one, "disk_bytes": n * one, "token_expert_bytes": k * one, "token_saves_bytes": k * (wide - one)}
    assert "Narrow copies of 2 bits" in text and "--cold-bits 2 reads at most" in text
    for command, options in (("info", ()), ("plan", ("--no-measure",))):
        text, numbers = shown(command, "wide", *options)
        assert numbers["narrow"] is None and "narrow" not in text.lower()


def test_off_by_default(models):
    one = perplexity(models["wide"])
    two = perplexity(models["two"])
    assert two["mean_nll"] == one["mean_nll"] and two["approximation"] is None


def test_all_narrow_is_the_narrow_model(models):
    """Nothing but narrow copies, one token at a time: the same numbers as of a model that has no others."""
    both = perplexity(models["two"], "--cold-bits", "2", "--cold-below", "1000", "--prefetch", "off")
    assert both["mean_nll"] == perplexity(models["narrow"])["mean_nll"] != perplexity(models["wide"])["mean_nll"]
    assert "copies of 2 bits" in both["approximation"] and "1000" in both["approximation"]
    # A bound that no weight is below: nothing but the wide ones.
    assert perplexity(models["two"], "--cold-bits", "2", "--cold-below", "1e-30")["mean_nll"] == perplexity(models["wide"])["mean_nll"]


def run(model, *options):
    result = flash_moe("run", model, "--raw", "-p", "Once upon a time", "-n", "30", "--temp", "0", "--json", "--heat", "off", "--session-cache", "off", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def test_only_missed_ones(models):
    cold = ("--cold-bits", "2", "--cold-below", "0.2")
    got, said = run(models["two"], "--memory", "18M", *cold)
    plain, _ = run(models["two"], "--memory", "18M")
    assert got["n_narrow"] > 0 and plain["n_narrow"] == 0 and "warning" in said and "approximation" in said
    fits, _ = run(models["two"], "--memory", "64M", *cold)
    assert fits["n_narrow"] == 0 and fits["text"] == plain["text"]
    result = flash_moe("compare", models["two"], "-f", HELD_OUT, "--tokens", "100", "--window", "50", "--memory", "36M", "--decode", "0", *cold)
    assert result.returncode == 0 and "B  " in result.stdout and "copies of 2 bits while decoding" in result.stdout


def test_refusals(models, tmp_path):
    for words, word in ((["run", models["wide"], "-p", "x", "--cold-bits", "2"], "no narrow copies"), (["run", EMBER, "-p", "x", "--cold-bits", "2"], "no narrow copies"),
                        (["run", models["two"], "-p", "x", "--cold-bits", "4"], "have 2 bits"), (["run", models["two"], "-p", "x", "--cold-bits", "2", "--missing", "drop"], "not both"),
                        (["run", models["two"], "-p", "x", "--cold-bits", "2", "--mirror", tmp_path], "mirror"), (["pack", EMBER, "-o", tmp_path / "x", "--experts", "2,4"], "fewer"),
                        (["pack", EMBER, "-o", tmp_path / "x", "--experts", "4,3"], "--experts"), (["pack", EMBER, "-o", tmp_path / "x", "--experts", "7"], "--experts")):
        result = flash_moe(*words)
        assert result.returncode in (1, 2) and word in result.stderr, (words, result.stderr)


def test_damaged(models, tmp_path):
    """A wrong byte in a narrow copy, and a model.json whose two lists do not agree."""
    for path in models["two"].rglob("*"):
        target = tmp_path / "m" / path.relative_to(models["two"])
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    file = tmp_path / "m" / "experts" / "narrow_03.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(data)
    result = flash_moe("verify", tmp_path / "m")
    assert result.returncode == 1 and "narrow_03.bin" in result.stdout + result.stderr and "layer 3" in result.stdout + result.stderr
    described = json.loads((tmp_path / "m" / "model.json").read_text())
    for change, word in ((described["narrow"][:7], "8 layers"), ([None] + described["narrow"][1:], "layer 0"), ({}, "8 layers")):
        (tmp_path / "m" / "model.json").unlink()
        (tmp_path / "m" / "model.json").write_text(json.dumps({**described, "narrow": change}))
        result = flash_moe("info", tmp_path / "m")
        assert result.returncode == 1 and "narrow" in result.stderr and word in result.stderr, result.stderr


def test_killed_and_continued(models, tmp_path):
    chance = random.Random(5)
    for i in range(4):
        path = tmp_path / str(i)
        words = [PROGRAM, "pack", EMBER, "-o", path, "--experts", "keep,2", "--threads", "1"]
        for _ in range(3):
            process = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(chance.uniform(0.01, 0.15))
            process.send_signal(signal.SIGKILL)
            process.wait()
        if not (path / "model.json").exists():
            assert subprocess.run(list(map(str, words)), capture_output=True).returncode == 0
        for file in models["two"].rglob("*"):
            assert not file.is_file() or (path / file.relative_to(models["two"])).read_bytes() == file.read_bytes(), file
