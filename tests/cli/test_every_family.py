"""Every family through everything that does not know which it is: run, a session's snapshot after a restart, pack, verify, perplexity, a chat's turn, a request to the server."""
import json
import re
import subprocess
import urllib.request

import pytest

import small_talker
from conftest import PROGRAM, ROOT, flash_moe

GOLDEN = ROOT / "tests" / "golden"
FAMILIES = re.findall(r"\n    X\((\w+)\)", (ROOT / "src" / "families" / "families.c").read_text())
TEXT = "Once upon a time there was a small robot who lived in a house by the sea, and each day it counted the boats. " * 6


def cases():
    """A raw model of each family, and one of each quantised form."""
    for family in FAMILIES:
        names = [path.name for path in GOLDEN.glob(f"{family}-*") if any(path.glob("model*.safetensors"))]
        found = [name for name in names if re.search(r"-(bf16|mlx-4bit|.*(mxfp4|fp8).*)$", name)]
        yield from found or [f"{family}-none"]


def run(model, *options):
    result = flash_moe("run", model, "--raw", "-p", TEXT, "-n", 24, "--temp", 0, "--context", 1024, "--memory", "64M", "--heat", "off", "--json", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def perplexity(model):
    result = flash_moe("perplexity", model, "-p", TEXT, "--window", 256, "--memory", "64M", "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["perplexity"]


def served(model, question, n):
    """The answer of a server to one question, and how it ended."""
    command = [PROGRAM, "serve", str(model), "--port", "0", "--context", "512", "--memory", "64M", "--session-cache", "off"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = next(found[1] for line in server.stderr if (found := re.search(r"ready at (\S+)", line)))
            body = json.dumps({"messages": [{"role": "user", "content": question}], "max_tokens": n, "temperature": 0}).encode()
            with urllib.request.urlopen(urllib.request.Request(url + "/v1/chat/completions", body), timeout=60) as answer:
                return json.load(answer)["choices"][0]["message"]
        finally:
            server.terminate()


def test_there_is_a_list():
    assert len(FAMILIES) >= 17 and len(set(FAMILIES)) == len(FAMILIES)


@pytest.mark.parametrize("case", sorted(set(cases())))
def test_a_family_through_everything(case, tmp_path):
    model, cache, packed = small_talker.make(GOLDEN / case, tmp_path / "model"), tmp_path / "cache", tmp_path / "packed"
    plain = run(model, "--session-cache", "off")
    assert plain["tokens"] == 24 and plain["prompt_kept"] == 0
    assert run(model, "--session-cache", cache)["text"] == plain["text"]
    again = run(model, "--session-cache", cache)
    assert again["prompt_kept"] > 0.9 * again["prompt_tokens"] and again["text"] == plain["text"]
    assert run(model, "--session-cache", cache, "--kv", "q8")["prompt_kept"] == 0

    result = flash_moe("pack", model, "-o", packed)
    assert result.returncode == 0 and "nothing was lost" in result.stdout, result.stdout + result.stderr
    assert flash_moe("verify", packed).returncode == 0
    assert run(packed, "--session-cache", "off", "--threads", 3)["text"] == plain["text"]
    number = perplexity(model)
    assert 1 < number < 1e6 and perplexity(packed) == number

    answer = flash_moe("run", model, "-p", "Who are you?", "-n", 8, "--temp", 0, "--context", 512, "--memory", "64M", "--session-cache", "off")
    assert answer.returncode == 0 and answer.stdout, answer.stderr
    message = served(model, "Who are you?", 8)
    assert (message["content"] or message["reasoning_content"]).strip() in answer.stdout
