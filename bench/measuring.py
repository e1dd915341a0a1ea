"""What the benches share: a head that every installation has, and seconds and memory of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from mrisr_node.superres.peak_memory import measured_memory

__all__ = ["SAMPLE", "measured"]

SAMPLE = Path(
    str(files("nilearn") / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
)
"""The average head that comes with nilearn."""

_Result = TypeVar("_Result")


def measured(work: Callable[[], _Result], repeat: int = 1) -> tuple[_Result, float, float]:
    """Return the result, seconds, the least of some repetitions, and MiB at the peak."""
    seconds = []
    with measured_memory() as memory:
        for _ in range(repeat):
            started = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - started)
    return result, min(seconds), memory.mib
