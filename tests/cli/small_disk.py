"""Places that refuse. A disk of a few MB that can be full: a file system of its own, which only a child of this process sees and which goes with it, as root or where anyone may have a namespace.
And directories of someone else."""
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest

NEW_MOUNTS, NEW_USER, PRIVATE, RECURSIVE = 0x20000, 0x10000000, 1 << 18, 1 << 14


def enter(path, megabytes):
    """Mounts it at path, for this process alone. Why it cannot be, or None."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if user != 0 or libc.unshare(NEW_MOUNTS) != 0:
        if libc.unshare(NEW_MOUNTS | NEW_USER) != 0:
            return "no namespace of mounts: " + os.strerror(ctypes.get_errno())
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as f:
                f.write(text)
    if libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None) != 0 or libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, f"size={megabytes}m".encode()) != 0:
        return "nothing can be mounted: " + os.strerror(ctypes.get_errno())
    return None


def on_small_disk(path, megabytes, test):
    """test(path), in a child in which path is a disk of so many MB. Skips where there can be none."""
    if not sys.platform.startswith("linux"):
        pytest.skip("a small disk is made by Linux only")
    path.mkdir()
    sys.stdout.flush()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        said = "F"
        try:
            why = enter(path, megabytes)
            if why is None:
                test(path)
            said = "S" + why if why else "P"
        except BaseException:
            said += traceback.format_exc()
        finally:
            os.write(theirs, said.encode()[:60000])
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as f:
        said = f.read().decode()
    os.waitpid(child, 0)
    if said.startswith("S"):
        pytest.skip(said[1:])
    assert said == "P", said


def pause(process, ready):
    """Stops it as soon as ready() is true."""
    while process.poll() is None and not ready():
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    assert process.poll() is None, "it was over before it was to be stopped"


@contextlib.contextmanager
def full(path):
    """Nothing can be written there meanwhile."""
    filler = path / "filler"
    with open(filler, "wb", buffering=0) as f:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while f.write(bytes(size)) == size:
                    pass
    yield
    filler.unlink()


def fails_when_full(process, path):
    """A paused process goes on and ends with one sentence that names a file there and what was missing."""
    process.send_signal(signal.SIGCONT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and stderr.startswith(f"flash-moe: {path}/") and stderr.count("\n") == 1, stderr
    assert "cannot be written" in stderr and stderr.endswith(": No space left on device.\n"), stderr


@contextlib.contextmanager
def as_nobody(program):
    """A directory that everyone may look into, and a function that runs the program there as nobody."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        copy = Path(folder) / "program"
        shutil.copy(program, copy)

        def run(*words, **more):
            return subprocess.run([copy, *map(str, words)], capture_output=True, text=True, timeout=120, user=65534, group=65534, extra_groups=[], **more)
        yield Path(folder), run
