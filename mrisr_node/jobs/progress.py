"""How far a stage has come, written to the records while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from mrisr_node.records import Job

__all__ = ["ProgressWriter"]

_EVERY = 1.0


class ProgressWriter:
    """Writes progress to the records, at most once a second, while the job still counts.

    Parameters
    ----------
    require
        Raises where it does not: nobody waits for the minutes that the stage would go on.
    """

    def __init__(self, job_id: int, require: Callable[[], None]) -> None:
        self._job_id = job_id
        self._require = require
        self._written = 0.0

    def __call__(self, part: float) -> None:
        """Write down which part of the stage, from 0 to 1, is done."""
        now = time.monotonic()
        if now - self._written >= _EVERY:
            self._written = now
            self._require()
            Job.update(progress=part).where(Job.id == self._job_id).execute()
