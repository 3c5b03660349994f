"""flash-moe pull --pack: the same bytes as packing the whole model, whatever stops it; with --delete-consumed in the room of one model and a few shards."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

from conftest import tree
from small_disk import fails_when_full, full, on_small_disk, pause

KILLS = int(os.environ.get("FLASH_MOE_KILLS", 6))


@pytest.fixture(scope="session")
def packed(sharded, tmp_path_factory):
    """What packing the whole model gives: {options: bytes}."""
    from conftest import PROGRAM
    source, made = tmp_path_factory.mktemp("source"), {}
    for name, data in sharded.items():
        (source / name).write_bytes(data)

    def pack(*options):
        if options not in made:
            target = source.parent / f"packed{len(made)}"
            result = subprocess.run([PROGRAM, "pack", source, "-o", target, *options], capture_output=True, text=True, timeout=120)
            assert result.returncode == 0, result
            made[options] = tree(target)
        return made[options]
    return pack


def rest(target):
    """What a pull leaves beside what it made."""
    return sorted(p.name for p in target.parent.iterdir() if p.name.startswith(target.name + "."))


@pytest.mark.parametrize("options", [(), ("--experts", "3"), ("--experts", "4,2")], ids=["keep", "3-bit", "two widths"])
def test_bytes_of_pack(serve, sharded, packed, tmp_path, options):
    hub, puller = serve(sharded)
    target = tmp_path / "packed"
    result = puller.run("pull", "org/name", "--pack", target, *options)
    assert result.returncode == 0 and puller.snapshot() == sharded, result
    assert len(list((target / "experts").glob("narrow_*.bin"))) == (8 if "4,2" in options else 0)
    assert ("what was lost" if options else "nothing was lost") in result.stdout
    assert tree(target) == packed(*options)
    assert rest(target) == []
    assert puller.run("verify", target).returncode == 0
    asked = len(hub.requests)
    assert puller.refused("--pack", target).endswith(f"{target}: it is there already.\n")
    assert len(hub.asked("cdn")) == len([r for r in hub.requests[:asked] if r[0] == "cdn"])


def test_consumed(serve, sharded, packed, tmp_path):
    hub, puller = serve(sharded)
    target = tmp_path / "packed"
    assert puller.pull("--pack", target, "--delete-consumed") == {}
    assert tree(target) == packed()
    assert rest(target) == [] and not puller.cache.exists()


@pytest.fixture(scope="session")
def profile(tmp_path_factory):
    from conftest import EMBER, PROGRAM
    folder = tmp_path_factory.mktemp("profile")
    (folder / "x.txt").write_text("Once upon a time")
    assert subprocess.run([PROGRAM, "profile", EMBER, "-f", folder / "x.txt", "-o", folder / "x.json", "-n", "5"], capture_output=True).returncode == 0
    return folder / "x.json"


@pytest.mark.parametrize("consumed", [False, True], ids=["kept", "consumed"])
def test_every_option_of_pack(serve, sharded, packed, profile, tmp_path, consumed):
    """The norms, which the search weighs errors by, lie in another shard than what they belong to, which is too large to come with its header."""
    from conftest import ember_files, split
    rules = tmp_path.parent / "rules.json"
    rules.write_text(json.dumps([{"tensors": "*.down_proj", "layers": "2-3", "bits": 3}, {"tensors": "*.o_proj", "bits": 8, "search": False}]))
    options = ("--experts", "3,2", "--dense", "3", "--group", "32", "--search", "--rules", str(rules), "--threads", "3", "--memory", "200M")
    hub, puller = serve({**{k: v for k, v in sharded.items() if "safetensors" not in k}, **split(ember_files()["model.safetensors"], 6, ("norm", "embed"))})
    weighed = (*options, "--profile", str(profile)) if consumed else options
    puller.pull("--pack", tmp_path / "out", *weighed, *(["--delete-consumed"] if consumed else []))
    assert tree(tmp_path / "out") == packed(*weighed)
    assert rest(tmp_path / "out") == [] and puller.cache.exists() == (not consumed)
    assert not consumed or packed(*weighed) != packed(*options)


def test_options_that_are_wrong(serve, sharded, tmp_path):
    hub, puller = serve(sharded)
    for options, word in ((("--experts", "4,2"), "--experts is for packing"), (("--search",), "--search is for packing"), (("--memory", "1G"), "--memory is for packing"),
                          (("--group", "32"), "--group is for packing"), (("--delete-consumed",), "--delete-consumed is for packing"), (("--experts", "4,3", "--pack", "x"), "may end in ,2 or ,4"),
                          (("--experts", "2,4", "--pack", tmp_path / "x"), "not fewer than"), (("--profile", "none.json", "--pack", tmp_path / "x", "--search", "--experts", "3"), "none.json"),
                          (("--rules", "none.json", "--pack", tmp_path / "x"), "none.json")):
        assert word in puller.refused(*options, status=1 if word == "none.json" else 2), options
    assert not (tmp_path / "x").exists()


def test_cached_shards_are_used_and_kept(serve, sharded, packed, tmp_path):
    hub, puller = serve(sharded)
    puller.pull()
    asked = len(hub.asked("cdn"))
    assert puller.pull("--pack", tmp_path / "packed", "--delete-consumed") == sharded
    assert tree(tmp_path / "packed") == packed()
    assert len(hub.asked("cdn")) == asked


def used(*paths):
    """Bytes on the disk."""
    total = 0
    for path in paths:
        for directory, _, names in os.walk(path):
            for name in names:
                try:
                    total += os.lstat(os.path.join(directory, name)).st_blocks * 512
                except FileNotFoundError:
                    pass
    return total


def test_room(serve, sharded, tmp_path):
    """With many shards the peak is the packed model and a few of them, not two models."""
    from conftest import split, ember_files
    files = {**{k: v for k, v in sharded.items() if "safetensors" not in k}, **split(ember_files()["model.safetensors"], 16)}
    hub, puller = serve(files)
    hub.bytes_per_second = 4_000_000
    target, most = tmp_path / "packed", 0
    process = puller.start("pull", "org/name", "--pack", target, "--delete-consumed", "--connections", 2)
    while process.poll() is None:
        most = max(most, used(tmp_path))
        time.sleep(0.005)
    assert process.returncode == 0
    model, shard = sum(map(len, tree(target).values())), max(len(v) for k, v in files.items() if k.endswith(".safetensors"))
    dense = len(tree(target)["dense.safetensors"])
    # The dense part stays in the shards until it is packed; a layer lies in three shards, and two more may arrive meanwhile.
    assert most < model + dense + 6 * shard < 1.7 * model, (most, model, dense, shard)


@pytest.mark.parametrize("options", [(), ("--delete-consumed", "--experts", "4,2")], ids=["kept", "two widths, consumed"])
def test_killed(serve, sharded, packed, tmp_path, options):
    hub, puller = serve(sharded)
    target, generator, kills = tmp_path / "packed", random.Random(5), 0

    def check():
        assert tree(target) == packed(*options[1:]) and rest(target) == []
        assert puller.snapshot() == ({} if options else sharded)
        shutil.rmtree(target)
        shutil.rmtree(puller.cache, ignore_errors=True)
    while kills < KILLS:
        hub.bytes_per_second = 8_000_000
        process = puller.start("pull", "org/name", "--pack", target, *options)
        try:
            assert process.wait(generator.uniform(0.02, 0.8)) == 0
            check()
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
    hub.bytes_per_second = None
    if rest(target) or not target.exists():
        puller.pull("--pack", target, *options)
    check()


def test_another_commit(serve, sharded, tmp_path):
    """What was begun goes on with its own commit only."""
    hub, puller = serve(sharded)
    target = tmp_path / "packed"
    hub.times(1000, lambda host, path, handler: handler.refuse(404, "EntryNotFound"), match="00004-of-00005.safetensors?")
    hub.times(1000, lambda host, path, handler: handler.cut(hub.files["model-00004-of-00005.safetensors"], 0), match="signed/model-00004")
    assert "model-00004" in puller.refused("--pack", target, "--delete-consumed", "--retries", 1)
    hub.faults.clear()
    old, hub.commit = hub.commit, "5" * 40
    hub.revisions.add(hub.commit)
    assert f"it was begun for {{\"model\": \"org/name\", \"commit\": \"{old}\"}}; go on with that" in puller.refused("--pack", target)


def test_wrong_shard(serve, sharded, tmp_path):
    hub, puller = serve(sharded)
    target, name = tmp_path / "packed", "model-00003-of-00005.safetensors"
    data = bytearray(sharded[name])
    data[-1] ^= 1
    hub.wrong[name] = bytes(data)
    sentence = puller.refused("--pack", target, "--delete-consumed")
    assert name in sentence and "has the hash" in sentence and not target.exists()
    hub.wrong.clear()
    puller.pull("--pack", target, "--delete-consumed")
    assert rest(target) == []


def test_two_at_once(serve, sharded, packed, tmp_path):
    hub, puller = serve(sharded)
    hub.bytes_per_second = 5_000_000
    target = tmp_path / "packed"
    first = puller.start("pull", "org/name", "--pack", target)
    while not (target.parent / "packed.pull").exists():
        time.sleep(0.01)
    time.sleep(0.05)
    assert "another program is at work there" in puller.refused("--pack", target)
    assert first.wait(60) == 0 and tree(target) == packed()


def test_not_ours(serve, sharded, tmp_path):
    hub, puller = serve(sharded)
    (tmp_path / "packed.pull").mkdir()
    (tmp_path / "packed.pull" / "precious").write_text("x")
    assert "not made by pull" in puller.refused("--pack", tmp_path / "packed")
    assert (tmp_path / "packed.pull" / "precious").read_text() == "x"


def test_stopped_by_interrupt(serve, sharded, packed, tmp_path):
    hub, puller = serve(sharded)
    hub.bytes_per_second = 2_000_000
    target = tmp_path / "packed"
    process = puller.start("pull", "org/name", "--pack", target)
    threading.Timer(0.7, process.send_signal, [signal.SIGINT]).start()
    assert process.wait(10) == 130
    hub.bytes_per_second = None
    puller.pull("--pack", target)
    assert tree(target) == packed() and rest(target) == []


@pytest.mark.parametrize("consumed", [(), ("--delete-consumed",)], ids=["kept", "consumed"])
def test_a_disk_that_becomes_full(serve, sharded, packed, tmp_path, consumed):
    """Cache and packed model on one disk, which is full while shards arrive and are packed."""
    want, options = packed("--experts", "4,2"), ("--experts", "4,2", *consumed)

    def small(disk):
        hub, puller = serve(sharded)
        puller.environment["HF_HUB_CACHE"] = str(disk / "cache")
        target = disk / "packed"
        hub.bytes_per_second = 3_000_000
        process = puller.start("pull", "org/name", "--pack", target, *options, stderr=subprocess.PIPE, text=True)
        pause(process, (disk / "packed.part" / "experts" / "narrow_01.bin").exists)
        hub.bytes_per_second = None
        with full(disk):
            fails_when_full(process, disk)
            assert not target.exists()
        assert puller.run("pull", "org/name", "--pack", target, *options).returncode == 0
        assert tree(target) == want and rest(target) == []
    on_small_disk(tmp_path / "small", 64, small)


def test_no_room_for_two_widths(serve, sharded, packed, tmp_path):
    """It is refused before a shard comes, and both copies count, but for what is written when the first shards are gone."""
    narrow = sum(len(data) for name, data in packed("--experts", "4,2").items() if "narrow_" in name)
    size = sum(map(len, sharded.values()))

    def small(disk):
        hub, puller = serve(sharded)
        needs = []
        for bits in ("4", "4,2"):
            sentence = puller.refused("--pack", disk / bits, "--delete-consumed", "--experts", bits)
            needs += [int(re.search(r"it needs (\d+) bytes, but only \d+ are free there", sentence)[1])]
            assert not (disk / bits).exists()
            shutil.rmtree(disk / (bits + ".pull"))
        assert needs[1] - needs[0] > narrow * 3 // 4 > 0 and hub.sent < size / 4, (needs, hub.sent)
    on_small_disk(tmp_path / "small", 5, small)
