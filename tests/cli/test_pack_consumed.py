"""flash-moe pack --delete-consumed: the source is given back while it is packed, and nothing of anybody else's."""
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from conftest import EMBER, PROGRAM, flash_moe
from raw_model import write as write_raw
from test_loud import sentence
from test_pack import OPTIONS, bank, pack, refused, tree  # noqa: F401


def test_delete_consumed(tmp_path):
    """Files of the model's own are gone; where a link leads to, or another name of a file, is left whole, and said."""
    source = write_raw(tmp_path / "source")
    pack(source, tmp_path / "want", "--experts", 4, "--search")
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    whole = {name: (source / name).read_bytes() for name in names}
    (source / names[1]).rename(tmp_path / "linked")
    (source / names[1]).symlink_to(tmp_path / "linked")
    os.link(source / names[2], tmp_path / "named twice")
    said = pack(source, tmp_path / "out", "--experts", 4, "--search", "--delete-consumed")
    assert tree(tmp_path / "out") == tree(tmp_path / "want")
    assert not list(source.glob("*.safetensors")) and (source / "config.json").exists()
    assert (tmp_path / "linked").read_bytes() == whole[names[1]] and (tmp_path / "named twice").read_bytes() == whole[names[2]]
    kept = len(whole[names[1]]) + len(whole[names[2]])
    assert f"{kept / 1e6:.2f} MB of the source are not freed" in said, said


def as_cache(source, top, commit="a" * 40):
    """A model in huggingface_hub's cache: links to blobs."""
    repo = top / "models--org--name"
    snapshot = repo / "snapshots" / commit
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source)
        blob = repo / "blobs" / hashlib.sha256(str(name).encode()).hexdigest()
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    return snapshot


def add_snapshot(snapshot, *names):
    """Another snapshot that has some of the files too."""
    other = snapshot.parent / ("b" * 40)
    for name in names:
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(os.readlink(snapshot / name), other / name)
    return other


def test_delete_consumed_of_the_hubs_cache(tmp_path):
    """Blobs that no other snapshot has are gone with their links; one that is shared stays as it was."""
    raw = write_raw(tmp_path / "raw")
    pack(raw, tmp_path / "want", "--experts", "4,2")
    snapshot = as_cache(raw, tmp_path / "hub")
    names = sorted(p.name for p in snapshot.glob("*.safetensors"))
    other = add_snapshot(snapshot, "config.json", names[1])
    result = json.loads(pack(snapshot, tmp_path / "out", "--experts", "4,2", "--delete-consumed", "--json"))
    assert tree(tmp_path / "out") == tree(tmp_path / "want")
    assert result["kept_bytes"] == (raw / names[1]).stat().st_size
    assert sorted(p.name for p in snapshot.iterdir()) == sorted(p.name for p in raw.iterdir() if p.name not in names)
    assert (other / names[1]).read_bytes() == (raw / names[1]).read_bytes()
    blobs = {os.readlink(p).split("/")[-1] for s in (snapshot, other) for p in s.iterdir()}
    assert {p.name for p in (snapshot.parents[1] / "blobs").iterdir()} == blobs
    hub = pytest.importorskip("huggingface_hub")
    for name in names:
        assert hub.try_to_load_from_cache("org/name", name, cache_dir=tmp_path / "hub", revision="a" * 40) is None
    assert hub.try_to_load_from_cache("org/name", names[1], cache_dir=tmp_path / "hub", revision="b" * 40) == str(other / names[1])
    seen = hub.scan_cache_dir(tmp_path / "hub")
    assert not seen.warnings and len(next(iter(seen.repos)).revisions) == 2


def test_a_snapshot_that_comes_to_share_what_is_consumed(bank, tmp_path):
    """Between two runs: what has holes is neither a blob nor where it was, and what became shared stays."""
    pack(bank, tmp_path / "want", *OPTIONS)
    snapshot = as_cache(bank, tmp_path / "hub")
    words = [PROGRAM, "pack", snapshot, "-o", tmp_path / "out", *map(str, OPTIONS), "--delete-consumed"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while process.poll() is None and (snapshot / "experts" / "layer_00.bin").is_symlink():
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    taken = [f"experts/{p.name}" for p in (snapshot / "experts" / ".consumed").iterdir()]
    blobs = {p.name for p in (snapshot.parents[1] / "blobs").iterdir()}
    assert taken and not any((snapshot / name).exists() or hashlib.sha256(name.encode()).hexdigest() in blobs for name in taken)
    assert str(snapshot / "experts") in sentence(flash_moe("verify", snapshot))
    left = sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("layer_*.bin") if p.is_symlink())
    other = add_snapshot(snapshot, left[-1])
    (tmp_path / "out.part.links-aB3xyz").mkdir()  # of a run that was killed
    again = snapshot / taken[0]  # somebody fetches it once more
    shutil.copyfile(bank / taken[0], again)
    result = json.loads(pack(snapshot, tmp_path / "out", *OPTIONS, "--delete-consumed", "--json"))
    assert result["kept_bytes"] == (bank / left[-1]).stat().st_size
    assert (other / left[-1]).read_bytes() == (bank / left[-1]).read_bytes() and again.read_bytes() == (bank / taken[0]).read_bytes()
    assert tree(tmp_path / "out") == tree(tmp_path / "want")
    assert list(snapshot.rglob("*.bin")) == [again] and not list(tmp_path.glob("out.*")) and not list(snapshot.rglob(".consumed"))


def test_removing_goes_on(bank, tmp_path):
    """A run that was killed after it had removed some of the files, without which the model cannot be opened."""
    source = tmp_path / "source"
    shutil.copytree(bank, source)
    pack(bank, tmp_path / "out", *OPTIONS)
    files = [str(p.relative_to(source)) for p in sorted(source.rglob("*")) if p.suffix in (".bin", ".safetensors")]
    for name in files[:4]:
        (source / name).unlink()
    journal = tmp_path / "out.part.json"

    def begun(model, *more):
        journal.write_text(json.dumps({"job": {}, "consumed": [], "removing": {"model": str(model), "files": files + list(more)}, "figures": {"kinds": [], "worst": []}}))
    (tmp_path / "precious").write_text("x")
    begun(bank)
    refused(source, "-o", tmp_path / "out", *OPTIONS, "--delete-consumed")
    begun(source, "../precious")
    assert "outside" in refused(source, "-o", tmp_path / "out", *OPTIONS, "--delete-consumed") and (tmp_path / "precious").exists()
    begun(source)
    assert "was whole already" in pack(source, tmp_path / "out", *OPTIONS, "--delete-consumed")
    assert not list(source.rglob("*.bin")) and not list(source.rglob("*.safetensors")) and (source / "config.json").exists()


def test_delete_consumed_goes_on_after_kill_9(tmp_path):
    source, options = tmp_path / "source", ["--experts", "3,2", "--dense", 8, "--threads", 2]
    for attempt in range(4):
        shutil.rmtree(source, ignore_errors=True)
        flash_moe("synth", EMBER, "-o", source, "--tokenizer", EMBER)
        if attempt == 0:
            pack(source, tmp_path / "want", *options)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        process = subprocess.Popen([PROGRAM, "pack", source, "-o", tmp_path / "out", *map(str, options), "--delete-consumed"], stdout=subprocess.DEVNULL)
        kind = "narrow" if attempt % 2 else "layer"  # a file may go when both copies of what is in it are written
        while process.poll() is None and not (tmp_path / "out.part" / "experts" / f"{kind}_0{attempt + 1}.bin").exists():
            time.sleep(0.001)
        process.kill()
        process.wait()
        if not (tmp_path / "out").exists():
            pack(source, tmp_path / "out", *options, "--delete-consumed")
        assert tree(tmp_path / "out") == tree(tmp_path / "want")
        assert not list(source.rglob("*.bin")) and not list(source.rglob("*.safetensors")) and not list(source.rglob(".consumed"))
        assert not list(tmp_path.glob("out.*"))


def test_kill_9_at_any_moment(bank, tmp_path):
    """Two widths, and blobs of the cache that are consumed: the same bytes in the end, and nothing left of the source or of the work. The model is named as on the hub, and
    found by that name although files of it are gone."""
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("HF_")}, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    options, kills, generator = ["--experts", "3,2", "--threads", "2"], 0, random.Random(7)
    begin = time.monotonic()
    pack(bank, tmp_path / "want", *options)
    seconds, want, out = time.monotonic() - begin, tree(tmp_path / "want"), tmp_path / "out"
    while kills < int(os.environ.get("FLASH_MOE_KILLS", "6")):
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        snapshot = as_cache(bank, tmp_path / "hub")
        while not out.exists() or (tmp_path / "out.part.json").exists():
            process = subprocess.Popen([PROGRAM, "pack", "org/name", "-o", out, *options, "--delete-consumed"], env=environment, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                process.wait(generator.uniform(0, seconds * 1.2))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            stderr = process.communicate()[1]
            assert process.returncode in (0, -signal.SIGKILL), stderr
        assert tree(out) == want and not list(tmp_path.glob("out.*"))
        refused_by_name = subprocess.run([PROGRAM, "info", "org/name"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert refused_by_name.returncode == 1 and "no model of that name" in refused_by_name.stderr
        for folder in snapshot.rglob(".consumed"):  # killed between the removal of the journal and of the link to it
            assert [p.name for p in folder.iterdir()] == ["journal"] and not (folder / "journal").exists()
            shutil.rmtree(folder)
        left = [p.name for p in snapshot.rglob("*")]
        assert not any(name.endswith((".bin", ".safetensors", ".consumed")) for name in left) and "config.json" in left, left
        assert {p.name for p in (snapshot.parents[1] / "blobs").iterdir()} == {os.path.basename(os.readlink(p)) for p in snapshot.rglob("*") if p.is_symlink()}
