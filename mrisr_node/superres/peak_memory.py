"""How much memory a piece of work needs at its peak."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PeakMemory", "measured_memory", "own_peak", "reset_own_peak"]

_INTERVAL = 0.05  # seconds; a look costs 1.6 ms, which is taken from what is measured
_PAGE = os.sysconf("SC_PAGE_SIZE")


class PeakMemory:
    """The highest resident memory above the level at the start, in MiB, so far."""

    def __init__(self) -> None:
        self.mib = 0.0


def _resident(process: int) -> int:
    """Return the bytes that a process and those it started hold in memory.

    Pages that they share are counted in each of them. A process that ends meanwhile counts nothing.
    """
    folder = Path("/proc", str(process))
    try:
        total = _resident_alone(process)
        started = [
            int(child)
            for children in (folder / "task").glob("*/children")
            for child in children.read_text().split()
        ]
    except (OSError, IndexError):
        return 0
    return total + sum(_resident(child) for child in started)


def _resident_alone(process: int) -> int:
    return int(Path("/proc", str(process), "statm").read_text().split()[1]) * _PAGE


def reset_own_peak() -> bool:
    """Make the kernel's mark of this process's highest memory start anew; tell whether it did."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def own_peak() -> int:
    """Return this process's highest memory since then, in bytes (VmHWM in proc_pid_status(5))."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@contextmanager
def measured_memory() -> Iterator[PeakMemory]:
    """Measure what happens within (Linux).

    The kernel tells the process's own peak exactly; together with the processes that it starts it
    is sampled every 50 ms, as is the process alone where the kernel's mark cannot be reset.

    Memory that was freed before is handed back to the system first, so that reusing it counts. A
    library that is loaded or warmed up within counts, too; the input of the work does not.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    peak = PeakMemory()
    done = threading.Event()
    before, alone = _resident(os.getpid()), _resident_alone(os.getpid())
    exact = reset_own_peak()

    def look() -> None:
        peak.mib = max(peak.mib, (_resident(os.getpid()) - before) / 2**20)

    def watch() -> None:
        while not done.wait(_INTERVAL):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
        look()
        if exact:
            peak.mib = max(peak.mib, (own_peak() - alone) / 2**20)
    finally:
        done.set()
        watcher.join()
