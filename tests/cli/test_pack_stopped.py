"""flash-moe pack: whatever stops it, nothing is under the final name, one sentence says why, and the same command ends in the same bytes."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import PROGRAM, flash_moe
from raw_model import write as write_raw
from small_disk import as_nobody, full, on_small_disk, pause
from test_pack import OPTIONS, TWO_WIDTHS, bank, pack, refused, tree  # noqa: F401


def test_kill_9_at_any_moment(bank, tmp_path):
    begin, options = time.monotonic(), ["--experts", "3,2", "--dense", 8, "--threads", 2]
    pack(bank, tmp_path / "whole", *options)
    seconds = time.monotonic() - begin
    want, kills = tree(tmp_path / "whole"), 0
    generator = random.Random(5)
    moments = int(os.environ.get("FLASH_MOE_KILLS", "12"))
    while kills < moments:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        for attempt in range(40):
            process = subprocess.Popen([PROGRAM, "pack", bank, "-o", out, *map(str, options)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                process.wait(generator.uniform(0, seconds * (0.4 if attempt < 3 else 1.6)))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            stderr = process.communicate()[1].decode()
            assert process.returncode in (0, -signal.SIGKILL) or (out.exists() and "it is there already" in stderr), stderr
            if out.exists():
                assert (out / "model.json").exists()
            if process.returncode == 0 or "there already" in stderr:
                break
        else:
            pytest.fail("it never ends")
        if list(tmp_path.glob("out.part*")):  # killed between the last rename and the end
            flash_moe("pack", bank, "-o", out, *options)
        assert tree(out) == want
        assert not list(tmp_path.glob("out.part*"))


def test_it_goes_on_after_the_last_layer(bank, tmp_path):
    """A continued run has less to do, and says so; its figures are of all layers."""
    whole = json.loads(pack(bank, tmp_path / "whole", *OPTIONS, "--json"))
    out = tmp_path / "out"
    process = subprocess.Popen([PROGRAM, "pack", bank, "-o", out, *map(str, OPTIONS)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "out.part" / "experts" / "layer_03.bin").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    done = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out.part" / "experts").iterdir()}
    rest = json.loads(pack(bank, out, *OPTIONS, "--json"))
    assert rest["plan"]["layers_done"] >= 3 and rest["written_bytes"] < whole["written_bytes"] * 0.8
    assert rest["kinds"] == whole["kinds"] and rest["worst"] == whole["worst"]
    assert (out / "experts" / "layer_01.bin").stat().st_mtime_ns == done["layer_01.bin"]
    assert tree(out) == tree(tmp_path / "whole")


def stopped(bank, out, *options):
    """A pack that was killed after its first layer."""
    process = subprocess.Popen([PROGRAM, "pack", bank, "-o", out, *map(str, options or OPTIONS)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (out.parent / (out.name + ".part") / "experts" / "layer_01.bin").exists():
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not out.exists()


def test_another_job_does_not_go_on(bank, tmp_path):
    stopped(bank, tmp_path / "out")
    line = refused(bank, "-o", tmp_path / "out", "--experts", 4)
    assert "out.part" in line and "other options" in line
    pack(bank, tmp_path / "out", *OPTIONS)


def test_a_source_that_changes_between(bank, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(bank, source)
    stopped(source, tmp_path / "out")
    file = source / "experts" / "layer_05.bin"
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    line = refused(source, "-o", tmp_path / "out", *OPTIONS)
    assert "layer_05.bin" in line and "changed" in line
    assert not (tmp_path / "out").exists()


def grow(path):
    with open(path, "ab") as f:
        f.write(b"more")


def touch(path):
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def overwrite(path):
    """Other bytes, and as many: of a matrix of experts, with which packing goes on."""
    time.sleep(0.02)  # a clock of files may have steps of a few milliseconds
    with open(path, "r+b") as f:
        f.seek(-2000, os.SEEK_END)
        f.write(bytes(1000))


def replace(path):
    shutil.copyfile(path, path.with_name("new"))
    path.with_name("new").rename(path)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [grow, touch, overwrite, replace, cut, Path.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "packed"])
def test_a_source_that_changes_underneath(bank, tmp_path, change, packed):
    source = tmp_path / "source"
    shutil.copytree(bank, source) if packed else write_raw(source)
    file = source / ("experts/layer_05.bin" if packed else "model-00003-of-00003.safetensors")
    process = subprocess.Popen([PROGRAM, "pack", source, "-o", tmp_path / "out", *TWO_WIDTHS, "--search"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    pause(process, (tmp_path / "out.part" / "experts" / "narrow_00.bin").exists)
    change(file)
    process.send_signal(signal.SIGCONT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and stderr.startswith("flash-moe: ") and stderr.count("\n") == 1 and file.name in stderr, stderr
    assert "changed" in stderr or change in (cut, overwrite), stderr  # it may end sooner, or what was read has another hash
    assert not (tmp_path / "out").exists()
    line = refused(source, "-o", tmp_path / "out", *TWO_WIDTHS, "--search")
    assert file.name in line and not (tmp_path / "out").exists(), line


def test_two_at_once(bank, tmp_path):
    first = subprocess.Popen([PROGRAM, "pack", bank, "-o", tmp_path / "out", *map(str, OPTIONS)], stdout=subprocess.DEVNULL)
    while first.poll() is None and not (tmp_path / "out.part" / "experts").exists():
        time.sleep(0.002)
    second = flash_moe("pack", bank, "-o", tmp_path / "out", *OPTIONS)
    assert first.wait() == 0
    assert second.returncode == 1 and ("another program is writing it" in second.stderr or "there already" in second.stderr), second
    assert "all as they were" in flash_moe("verify", tmp_path / "out").stdout


def test_a_full_disk(bank, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    line = refused(bank, "-o", tmp_path / "out", *OPTIONS, preexec_fn=limit)
    assert "cannot be written" in line and "out.part" in line
    assert not (tmp_path / "out").exists()
    pack(bank, tmp_path / "out", *OPTIONS)


def test_it_says_before_that_it_does_not_fit(bank, tmp_path):
    def small(disk):
        assert "are free there" in refused(bank, "-o", disk / "out", *OPTIONS)
        assert not (disk / "out").exists()
    on_small_disk(tmp_path / "small", 3, small)


@pytest.fixture(scope="module")
def whole(bank):
    pack(bank, bank.parent / "whole", *TWO_WIDTHS)
    return tree(bank.parent / "whole")


@pytest.mark.parametrize("when", ["dense.safetensors", "experts/narrow_05.bin"])
def test_a_disk_that_becomes_full(bank, whole, tmp_path, when):
    options = TWO_WIDTHS

    def small(disk):
        command = [PROGRAM, "pack", bank, "-o", disk / "out", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        pause(process, (disk / "out.part" / when).exists)
        with full(disk):
            process.send_signal(signal.SIGCONT)
            stderr = process.communicate(timeout=60)[1]
            assert process.returncode == 1 and stderr.startswith(f"flash-moe: {disk}/out.part") and stderr.count("\n") == 1, stderr
            assert "it cannot be written" in stderr and stderr.endswith(": No space left on device.\n"), stderr
            assert not (disk / "out").exists()
            again = refused(bank, "-o", disk / "out", *options)
            assert "are free there" in again or again.endswith(": No space left on device.\n"), again
            assert not (disk / "out").exists()
        pack(bank, disk / "out", *options)
        assert tree(disk / "out") == whole
    on_small_disk(tmp_path / "small", sum(map(len, whole.values())) // 1000000 + 2, small)


def test_a_disk_without_a_byte(bank, tmp_path):
    """Nothing is begun, and nothing left."""
    def small(disk):
        with full(disk):
            assert refused(bank, "-o", disk / "out", *OPTIONS).endswith("No space left on device.\n")
            assert [p.name for p in disk.iterdir()] == ["filler"]
    on_small_disk(tmp_path / "small", 3, small)


def test_places_that_refuse(bank, ember, tmp_path):
    (tmp_path / "there").mkdir()
    assert "there already" in refused(bank, "-o", tmp_path / "there")
    assert "nowhere" in refused(bank, "-o", tmp_path / "nowhere" / "out")
    (tmp_path / "left.part").mkdir()
    assert "without a journal" in refused(bank, "-o", tmp_path / "left")
    (tmp_path / "file").write_text("")
    assert "file" in refused(bank, "-o", tmp_path / "file" / "out")
    assert "no such directory" in refused(tmp_path / "none", "-o", tmp_path / "out")
    assert "MiB of memory" in refused(ember, "-o", tmp_path / "out", "--memory", "30M")
    if os.geteuid() != 0:
        os.chmod(tmp_path / "there", 0o500)
        assert "ermission" in refused(bank, "-o", tmp_path / "there" / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def nobody():
    with as_nobody(PROGRAM) as both:
        yield both


def denied(result, name):
    """The sentence, which may come after the plan was printed."""
    assert result.returncode == 1 and result.stderr.startswith("flash-moe: ") and result.stderr.count("\n") == 1, result
    assert str(name) in result.stderr and "ermission denied" in result.stderr, result.stderr


def test_permission_denied(nobody):
    """As another user, who may not write there, not read a file of the source, not remove it, or not go on with what someone else began."""
    folder, run = nobody
    source, own = write_raw(folder / "source"), folder / "own"
    own.mkdir()
    os.chown(own, 65534, 65534)
    denied(run("pack", source, "-o", folder / "out"), folder / "out.part")
    assert sorted(p.name for p in folder.iterdir()) == ["own", "program", "source"]
    before = tree(source)
    denied(run("pack", source, "-o", own / "out", "--delete-consumed"), source)
    assert tree(source) == before and not list(own.iterdir())
    shard = source / "model-00002-of-00003.safetensors"
    shard.chmod(0)
    denied(run("pack", source, "-o", own / "out"), shard)
    assert not list(own.iterdir())
    shard.chmod(0o644)
    assert run("pack", source, "-o", own / "out", "--experts", "4").returncode == 0
    for name in ("experts/layer_02.bin", "dense.safetensors", "model.json"):
        (own / "out" / name).chmod(0)
        denied(run("verify", own / "out"), own / "out" / name)
        (own / "out" / name).chmod(0o644)
    assert run("verify", own / "out").returncode == 0
