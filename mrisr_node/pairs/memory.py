"""How much memory there is, and how much of it a scan takes."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["FIRST_GUESS", "available_memory", "resident_memory"]

FIRST_GUESS = 4 * 2**30
"""Bytes that a scan takes at its peak, before one was measured: a whole head in 256 mm cubed."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the bytes that can be had without swapping, of the machine or of the container."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
            break
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * _PAGE
    try:
        limit = int((_GROUP / "memory.max").read_text())
        used = int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no control group, or "max": no limit
        return free
    return min(free, limit - used)


def resident_memory(process: int) -> int:
    """Return the bytes that a process holds; 0 where it has ended."""
    try:
        return int(Path("/proc", str(process), "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
