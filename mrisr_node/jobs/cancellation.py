"""Stopping a job that nobody wants any more, wherever it is."""

from __future__ import annotations

import time

from mrisr_node import records
from mrisr_node.errors import NodeError
from mrisr_node.jobs.stages import SENDING, Stage
from mrisr_node.records import ACTIVE, Job, Series, StageRun, State

__all__ = ["CannotCancel", "cancel"]


class CannotCancel(NodeError):
    """A job is not under way any more, or its result is on its way into the PACS."""


def cancel(job_id: int, who: str) -> None:
    """Stop a job; a worker that is at it finds out within seconds (`work`, `lease`).

    What has begun to be stored is stored whole, so that no half result stays in the PACS.

    Raises
    ------
    CannotCancel
        It is too late.
    """
    with records.transaction():
        job = Job.get_by_id(job_id)
        series = Series.get_by_id(job.series_id)
        newest = Job.select().where(Job.series == series).order_by(Job.id.desc()).get()
        if State(series.state) not in ACTIVE or newest.id != job.id:
            raise CannotCancel(f"job {job_id} is not under way; look again")
        begun = StageRun.select().where(StageRun.job == job, StageRun.stage == Stage.STORE.value)
        if job.stage in SENDING and begun.exists():
            raise CannotCancel(
                f"the result of job {job_id} is being stored in the PACS, and is stored whole"
            )
        series.move(State.CANCELLED, f"cancelled by {who}")
        if job.lease_owner is None:
            Job.update(finished_at=time.time()).where(Job.id == job.id).execute()
