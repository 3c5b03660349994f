"""Tests of models from the hub: a server of our own plays it (hub_server.py). FLASH_MOE names the program."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EMBER = ROOT / "models" / "ember"
PROGRAM = os.environ.get("FLASH_MOE", str(ROOT / "build" / "flash-moe"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(ROOT / "tests" / "cli"))  # small_disk

from hub_server import Hub  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def program():
    if not os.access(PROGRAM, os.X_OK):
        pytest.exit(f"there is no program {PROGRAM}: build it, or name it with FLASH_MOE", 1)


def ember_files():
    return {p.name: p.read_bytes() for p in sorted(EMBER.iterdir()) if p.is_file() and not p.name.startswith(("reference", "held-out"))}


def split(raw, n, last=()):
    """A safetensors file as n shards and their index. Shards are cut by bytes, so a layer may lie in two; tensors with a word of `last` in their names have the last one for themselves."""
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:8 + length]), raw[8 + length:]
    tensors = sorted(((name, t) for name, t in header.items() if name != "__metadata__"), key=lambda x: x[1]["data_offsets"])
    shards, index = [({}, bytearray()) for _ in range(n)], {}
    for name, t in tensors:
        begin, end = t["data_offsets"]
        m = n - bool(last)
        which = n - 1 if any(word in name for word in last) else min(m - 1, begin * m // len(data))
        own, bytes_ = shards[which]
        own[name] = {**t, "data_offsets": [len(bytes_), len(bytes_) + end - begin]}
        bytes_ += data[begin:end]
        index[name] = f"model-{which + 1:05}-of-{n:05}.safetensors"
    files = {}
    for i, (own, bytes_) in enumerate(shards):
        text = json.dumps(own).encode()
        text += b" " * (-len(text) % 8)
        files[f"model-{i + 1:05}-of-{n:05}.safetensors"] = len(text).to_bytes(8, "little") + text + bytes(bytes_)
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": index}).encode()
    return files


@pytest.fixture(scope="session")
def ember():
    if not (EMBER / "model.safetensors").exists():
        pytest.skip("models/ember has no model.safetensors")
    return ember_files()


@pytest.fixture(scope="session")
def sharded(ember):
    return {**{k: v for k, v in ember.items() if not k.startswith("model.safetensors")}, **split(ember["model.safetensors"], 5)}


SMALL = {"config.json": (ROOT / "tests/golden/qwen3_5_moe-mlx-4bit-group32/config.json").read_bytes(),
         "model.safetensors": (ROOT / "tests/golden/qwen3_5_moe-mlx-4bit-group32/model.safetensors").read_bytes()}


class Puller:
    """The program with an environment of its own, in which the hub is the given one."""

    def __init__(self, hub, home):
        self.hub, self.home = hub, home
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "XDG_CACHE"))},
                            "HOME": str(home), "HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(home / ".cache")}
        self.cache = home / ".cache" / "huggingface" / "hub"

    def command(self, *arguments):
        return [PROGRAM, *map(str, arguments)]

    def run(self, *arguments, timeout=120, **more):
        return subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=timeout, **more)

    def start(self, *arguments, stderr=subprocess.DEVNULL, **more):
        return subprocess.Popen(self.command(*arguments), env=self.environment, stdout=subprocess.DEVNULL, stderr=stderr, **more)

    def pull(self, *options, name="org/name", **more):
        """A pull that succeeds; what is in the snapshot."""
        result = self.run("pull", name, *options, **more)
        assert result.returncode == 0, result
        return self.snapshot()

    def refused(self, *options, name="org/name", status=1, **more):
        """The sentence in which a pull ends."""
        result = self.run("pull", name, *options, **more)
        assert result.returncode == status and result.stdout == "", result
        assert result.stderr.startswith("flash-moe: ") and result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    def repo(self):
        return self.cache / ("models--" + self.hub.repo.replace("/", "--"))

    def snapshot(self):
        top = self.repo() / "snapshots" / self.hub.commit
        return {str(p.relative_to(top)): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()} if top.exists() else {}


@pytest.fixture
def serve(tmp_path):
    """serve(files, …): a hub that runs, and a program that pulls from it."""
    hubs = []

    def start(files, **options):
        hub = Hub(files, **options).__enter__()
        hubs.append(hub)
        return hub, Puller(hub, tmp_path)
    yield start
    for hub in hubs:
        hub.__exit__()


def tree(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
