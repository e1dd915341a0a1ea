"""Whether a job that is under way is worked on now, waits for its turn, or for its next try."""

from __future__ import annotations

import time

from mrisr_node.choices import Recipe
from mrisr_node.delays import is_due
from mrisr_node.jobs.stages import Queue, Stage, queue_of, stages_of
from mrisr_node.records import ACTIVE, Job, State

__all__ = ["next_try", "waits_for"]


def waits_for(job: Job, state: State) -> Queue | None:
    """Return the queue whose worker a job waits for.

    None while a worker has it, while it waits for its next try instead, and where it is over.

    Parameters
    ----------
    state
        Of its series, whose newest job it is.
    """
    if state not in ACTIVE or job.lease_owner is not None or next_try(job) is not None:
        return None
    return queue_of(Stage(job.stage) if job.stage else stages_of(Recipe(job.recipe))[0])


def next_try(job: Job) -> float | None:
    """Return the moment until which a job that is under way is put off; None: it is not."""
    if job.lease_owner is not None or is_due(job.not_before, time.time()):
        return None
    return float(job.not_before)
