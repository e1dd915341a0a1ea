"""What should be running and is not: found from the records, and woken up again."""

from __future__ import annotations

import logging
import os
import socket
import time

from mrisr_node import records
from mrisr_node.choices import Recipe
from mrisr_node.delays import is_due
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.stages import LEASE_SECONDS, SENDING, Stage, queue_of, stages_of
from mrisr_node.records import ACTIVE, DIED, Failure, Job, Series, State, StateError, Transition

__all__ = ["Unrenewed", "recover", "retry"]

_log = logging.getLogger(__name__)

Unrenewed = dict[int, tuple[float, int]]
"""Of each job whose lease is over: until when it ran, and how often it was found so."""

# Three looks are at least two beats of the owner apart.
_LOOKS = 3

_STOPPED = (State.FAILED, State.CANCELLED)


def recover(queues: Queues, unrenewed: Unrenewed | None = None) -> int:
    """Send a message for every job that nobody holds and nobody is about to take.

    Parameters
    ----------
    unrenewed
        What earlier looks found, and is kept for the next: when the clock jumps, every lease is
        over, and an owner that lives renews it soon. None: a lease that is over is believed.

    Returns
    -------
    int
        How many jobs were woken up.
    """
    looks = 1 if unrenewed is None else _LOOKS
    unrenewed = {} if unrenewed is None else unrenewed
    waiting: dict[object, set[int]] = {}
    woken = 0
    # Read to the end before anything is written (see `Assembly.sweep`).
    for series in list(Series.select().where(Series.state.in_([s.value for s in ACTIVE]))):
        job = Job.select().where(Job.series == series).order_by(Job.id.desc()).first()
        if job is None:
            # Only a crash between two rows of one transaction could do this, so it cannot; but a
            # series must never wait for ever.
            series.move(State.FAILED, "the series was queued without a job; try it again")
            continue
        if not is_due(job.not_before, time.time()) or not _free(job, unrenewed, looks):
            continue
        queue = queue_of(Stage(job.stage) if job.stage else stages_of(Recipe(job.recipe))[0])
        if queue not in waiting:
            waiting[queue] = queues.waiting(queue)
        if job.id not in waiting[queue]:
            queues.send(queue, job.id)
            woken += 1
    return woken


def retry(series_id: int, reason: str = "tried again") -> None:
    """Queue a series again that failed or was cancelled.

    Raises
    ------
    StateError
        It did not, or there is none of that id.
    """
    with records.transaction():
        series = Series.get_or_none(Series.id == series_id)
        if series is None:
            raise StateError(f"there is no series {series_id}")
        if State(series.state) not in _STOPPED:
            raise StateError(
                "only a series that failed or was cancelled can be tried again, and series"
                f" {series_id} is {series.state}"
            )
        last = Job.select().where(Job.series == series).order_by(Job.id.desc()).first()
        gone = series.copies_deleted_at is not None
        if gone and series.format != "dicom":
            raise StateError("the files of this series are deleted; upload it again")
        series.move(State.QUEUED, reason)
        if last is None or gone or not _failed_in_a_job(series):
            # It failed before it had a job, has to be sent again, or a late slice took the last
            # job's worth: completeness and selection have to look at it first.
            series.move(State.RECEIVING, reason)
            Series.update(last_instance_at=time.time()).where(Series.id == series_id).execute()
        else:
            # The same job goes on where it failed, so that what was stored already stays true. What
            # was stored and not shown is stored again.
            sending = last.stage in SENDING
            Job.update(
                stage=Stage.STORE.value if sending else last.stage,
                progress=0.0,
                attempts=0,
                not_before=0.0,
                lease_owner=None,
                lease_until=0.0,
                finished_at=None,
            ).where(Job.id == last.id).execute()


def _failed_in_a_job(series: Series) -> bool:
    """Tell whether a series ended while it was processed, not while it was looked at."""
    failed = Transition.select().where(
        Transition.series == series, Transition.target.in_([state.value for state in _STOPPED])
    )
    last = failed.order_by(Transition.id.desc()).first()
    return last is not None and State(last.source) in ACTIVE


def _free(job: Job, unrenewed: Unrenewed, looks: int) -> bool:
    """Tell whether nobody works on a job; takes it from an owner that has died."""
    if job.lease_owner is None:
        return True
    until, times = unrenewed.pop(job.id, (job.lease_until, 0))
    if not _dead(job.lease_owner):
        # One that ends later than any lease does was given by a clock that was ahead.
        if 0 < job.lease_until - time.time() <= LEASE_SECONDS:
            return False
        times = times + 1 if until == job.lease_until else 1
        if times < looks:
            unrenewed[job.id] = (job.lease_until, times)
            return False
    with records.transaction():
        freed = Job.update(lease_owner=None, lease_until=0.0, attempts=Job.attempts + 1).where(
            Job.id == job.id,
            Job.lease_owner == job.lease_owner,
            Job.lease_until == job.lease_until,
        )
        if not freed.execute():
            return False  # its owner has just renewed the lease, or let go
        stage = job.stage or stages_of(Recipe(job.recipe))[0].value
        Failure.create(series=job.series_id, stage=stage, kind=DIED)
    _log.warning("job %d was left by a worker that died in %s", job.id, job.stage or "the queue")
    return True


def _dead(owner: str) -> bool:
    """Tell whether a process of this machine has ended; of other machines only leases tell."""
    host, pid, _ = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
