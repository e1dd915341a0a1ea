"""Killed at every point where something becomes durable or known: nothing is lost or done twice."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent.parent / "bench" / "kills.py"


def test_killed_at_every_point(needs_orthanc):
    # In a process of its own, where the sockets of associations that died may be garbage.
    run = subprocess.run(
        [sys.executable, str(BENCH), "--each"],
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert run.returncode == 0, run.stdout + run.stderr
