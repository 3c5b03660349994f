"""flash-moe perplexity and compare: their figures once more from the logits that dump writes."""
import json

import numpy as np
import pytest

from conftest import EMBER, ROOT, flash_moe
from safetensors_file import Safetensors
from test_loud import sentence
from test_options import usage_error

TEXT = (EMBER / "held-out.txt").read_text()[:2000]


def logits(model, tmp_path, *options):
    """ids [n] and log probabilities [n][vocab] of TEXT, all in one window."""
    path = tmp_path / "dump.safetensors"
    (tmp_path / "text").write_text(TEXT)
    result = flash_moe("dump", model, "-f", tmp_path / "text", "-o", path, "--context", 1024, *options)
    assert result.returncode == 0, result.stderr
    file = Safetensors.load(path)
    ids, x = (np.frombuffer(bytes(file.data[slice(*file.header[n]["data_offsets"])]), t).reshape(file.header[n]["shape"]) for n, t in (("ids", "<i4"), ("logits", "<f4")))
    x = x.astype(float)
    x -= x.max(1, keepdims=True)
    return ids, x - np.log(np.exp(x).sum(1, keepdims=True))


def run(command, *arguments):
    result = flash_moe(command, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_perplexity_and_each_token(ember, tmp_path):
    ids, p = logits(ember, tmp_path)
    want = -p[np.arange(len(ids) - 1), ids[1:]]
    result = run("perplexity", ember, "-f", tmp_path / "text", "--window", 1024, "--each", tmp_path / "each.tsv")
    assert result["tokens"] == len(want) and result["mean_nll"] == pytest.approx(want.mean(), rel=1e-6)
    assert result["perplexity"] == pytest.approx(np.exp(want.mean()), rel=1e-6)
    rows = [line.split("\t") for line in (tmp_path / "each.tsv").read_text().split("\n")[:-1]]
    assert [int(r[0]) for r in rows] == list(range(1, len(ids))) and [int(r[1]) for r in rows] == list(ids[1:])
    assert np.allclose([float(r[2]) for r in rows], want, rtol=1e-6, atol=1e-9)
    text = "".join(r[3] for r in rows).replace("\\x0a", "\n")
    assert TEXT.replace("\n", "").endswith(text.replace("\n", "")[-100:].rstrip())


def test_windows_and_strides(ember, tmp_path):
    """Without an overlap a window is a text of its own; with one, each token is counted once, and predicted from more."""
    ids, _ = logits(ember, tmp_path)
    text = tmp_path / "text"

    def each(*options):
        run("perplexity", ember, "-f", text, "--each", tmp_path / "each", *options)
        return {int(r.split("\t")[0]): float(r.split("\t")[2]) for r in (tmp_path / "each").read_text().split("\n")[:-1]}

    whole, cut, sliding = each("--window", 1024), each("--window", 64), each("--window", 64, "--stride", 16)
    assert sorted(whole) == sorted(sliding) == list(range(1, len(ids)))
    assert sorted(cut) == [i for i in range(1, len(ids)) if i % 64]
    assert all(cut[i] == whole[i] == sliding[i] for i in range(1, 64))
    assert np.mean(list(cut.values())) > np.mean([sliding[i] for i in cut]) > np.mean([whole[i] for i in cut])


@pytest.mark.parametrize("options", [["--experts-per-token", 3], ["--activations", "f32"]], ids=lambda o: o[0])
def test_one_model_with_two_settings(ember, tmp_path, options):
    (ids, p), (_, q) = logits(ember, tmp_path), logits(ember, tmp_path, *options)
    p, q, place = p[:-1], q[:-1], (np.arange(len(ids) - 1), ids[1:])
    kl = np.sort((np.exp(p) * (p - q)).sum(1))
    result = run("compare", ember, "-f", tmp_path / "text", "--window", 1024, *options, "--decode", 4)
    assert result["tokens"] == len(kl)
    assert result["kl"]["mean"] == pytest.approx(kl.mean(), rel=1e-4, abs=1e-9)
    for name, at in (("median", len(kl) // 2), ("p90", int((len(kl) - 1) * 0.9)), ("p99", int((len(kl) - 1) * 0.99)), ("most", -1)):
        assert result["kl"][name] == pytest.approx(kl[at], rel=1e-3, abs=1e-8), name
    assert result["same_top"] == pytest.approx((p.argmax(1) == q.argmax(1)).mean())
    assert result["a"]["perplexity"] == pytest.approx(np.exp(-p[place].mean()), rel=1e-6)
    assert result["b"]["perplexity"] == pytest.approx(np.exp(-q[place].mean()), rel=1e-6)
    assert result["perplexity_ratio"] == pytest.approx(result["b"]["perplexity"] / result["a"]["perplexity"])
    assert result["a"]["decoded_per_second"] > 0 and result["speed_ratio"] > 0 and result["decode_ratio"] > 0


def test_two_models(ember, tmp_path):
    assert flash_moe("pack", ember, "-o", tmp_path / "same").returncode == 0
    assert flash_moe("pack", ember, "-o", tmp_path / "three", "--experts", 3).returncode == 0
    assert flash_moe("pack", ember, "-o", tmp_path / "two", "--experts", 2).returncode == 0
    (tmp_path / "text").write_text(TEXT)
    results = [run("compare", ember, tmp_path / name, "-f", tmp_path / "text", "--decode", 0) for name in ("same", "three", "two")]
    assert results[0]["kl"]["most"] == 0 and results[0]["same_top"] == 1 and results[0]["perplexity_ratio"] == 1
    assert 0 < results[1]["kl"]["mean"] < results[2]["kl"]["mean"]
    table = flash_moe("compare", ember, tmp_path / "two", "-f", tmp_path / "text").stdout
    assert "KL divergence of B from A" in table and "the same likeliest token" in table and "tokens/s one at a time" in table


def test_what_cannot_be_compared(ember, tmp_path):
    assert usage_error("compare", ember, "-p", "x").startswith("one model alone is compared with itself under another setting")
    assert usage_error("compare", ember, ember, "-p", "x", "--stride", 600) == "--stride is 600, but must be at most the --window of 512."
    assert usage_error("perplexity", ember, "-p", "x", "--stride", 600) == "--stride is 600, but must be at most the --window of 512."
    line = sentence(flash_moe("compare", ember, ROOT / "tests" / "golden" / "qwen3_moe-bf16", "-p", "Once upon a time"))
    assert "cannot be compared" in line
    assert "2 is the least" in sentence(flash_moe("compare", ember, ember, "-p", "x"))
    assert "cannot be written" in sentence(flash_moe("perplexity", ember, "-p", "Once upon a time", "--each", tmp_path / "no" / "file"))
