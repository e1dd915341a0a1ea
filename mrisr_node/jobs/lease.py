"""The hold of a worker on a job: renewed while a stage computes, and given up with one that hangs.

A stage that waits for itself for ever, in a library's lock or a driver, looks like one that works;
one that nobody wants any more may not ask for minutes whether it is wanted. The only way out of
either is the death of its process, which the records survive anyway.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mrisr_node import records
from mrisr_node.beats import beating
from mrisr_node.jobs.stages import LEASE_SECONDS
from mrisr_node.records import Job, Series, State

__all__ = ["HEARTBEAT", "Deadline", "renewed"]

_log = logging.getLogger(__name__)

HEARTBEAT = 5.0
"""Seconds between two renewals: twelve in a lease."""


class Deadline:
    """Until when the present stage must be over; set anew as each begins."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.begin()

    def begin(self) -> None:
        """Give a stage its time."""
        # Not by the clock on the wall, which may jump.
        self._end = time.monotonic() + self._seconds

    @property
    def missed(self) -> bool:
        """Whether the stage should be over and is not."""
        return time.monotonic() > self._end


@contextmanager
def renewed(job: Job, owner: str, deadline: Deadline) -> Iterator[None]:
    """Renew the lease of a job from a thread, and kill this process with a stage that must end.

    A stage that reports its progress finds out by itself that its job was cancelled; any other is
    ended here, between one and two heartbeats later.

    Parameters
    ----------
    job
        Leased already.
    owner
        Who holds it (`records.owner_name`).
    deadline
        Begun anew by the body with each stage.
    """
    cancelled = False

    def renew() -> None:
        nonlocal cancelled
        if deadline.missed:
            _log.critical("job %d hangs; its worker ends here, to begin anew", job.id)
            # The stage cannot be asked to end. Whoever finds the lease of a dead process
            # counts one more attempt.
            os.kill(os.getpid(), signal.SIGKILL)
        with records.connection():
            Job.update(lease_until=time.time() + LEASE_SECONDS).where(
                Job.id == job.id, Job.lease_owner == owner
            ).execute()
            before, cancelled = cancelled, _is_cancelled(job)
            if before and cancelled:
                _log.warning("job %d was cancelled; its worker ends with it", job.id)
                # It has not died: no attempt of the job's is counted.
                Job.update(lease_owner=None, lease_until=0.0, finished_at=time.time()).where(
                    Job.id == job.id, Job.lease_owner == owner
                ).execute()
                os.kill(os.getpid(), signal.SIGKILL)

    in_vain = f"the lease of job {job.id} was not renewed"
    with beating(renew, HEARTBEAT, f"lease of job {job.id}", in_vain):
        yield


def _is_cancelled(job: Job) -> bool:
    return bool(Series.get_by_id(job.series_id).state == State.CANCELLED.value)
