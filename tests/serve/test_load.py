"""The load of load.py, for 10 seconds; FLASH_MOE_LOAD_SECONDS=120 is the long form."""
import os

from conftest import SANITIZED
from load import Load

SECONDS = float(os.environ.get("FLASH_MOE_LOAD_SECONDS", 10))


def test_load(start):
    s = start("--parallel", 8, "--queue", 40, "--session-cache", "off", memory=() if SANITIZED else ("--memory", "56M"), context=1024)
    load = Load(s.url)
    load.single_user()
    seen = load.run(SECONDS, s.resident)
    s.wait_idle(120)
    assert not load.wrong, load.wrong[:3]
    assert all(load.counts.values()), f"each kind of client was there: {load.counts}"
    if not SANITIZED:
        half = len(seen) // 2
        print(load.counts, f"resident {min(seen) / 2**20:.1f} to {max(seen) / 2**20:.1f} MiB")
        assert max(seen) <= 56 << 20, f"{max(seen)} bytes are more than the budget"
        assert max(seen[half:]) <= 1.05 * max(seen[:half]), "memory grows"
    s.stop()
