"""What people and tools are told about jobs: what is done with a series, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from peewee import Case, fn

from mrisr_node.jobs.estimates import Estimate, Estimator
from mrisr_node.jobs.turns import next_try
from mrisr_node.records import ACTIVE, Job, Series, StageRun, State

__all__ = ["JobOverview", "JobState", "StageOverview", "count_jobs", "find_job", "list_jobs"]


class JobState(StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    """For its turn, or for its next try."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    """Its series got another slice before it was done."""


@dataclass(frozen=True)
class StageOverview:
    """One run of a stage."""

    stage: str
    started_at: float
    seconds: float | None
    """Null while it runs, and for ever where it did not end well."""
    finished: bool


@dataclass(frozen=True)
class JobOverview:
    """One job."""

    id: int
    series: int
    study_instance_uid: str
    series_instance_uid: str
    state: JobState
    reason: str
    """Why, as far as this job is the newest of its series."""
    recipe: str
    stage: str | None
    progress: float
    attempts: int
    """Vain tries of the current stage."""
    next_try_at: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    delivered_at: float | None
    committed_at: float | None
    result_series_uid: str | None
    result_instances: int | None
    time_left: Estimate | None
    stages: tuple[StageOverview, ...]


def list_jobs(
    *, state: JobState | None = None, series: int | None = None, limit: int = 50, offset: int = 0
) -> list[JobOverview]:
    """Return jobs that nobody has deleted, newest first."""
    estimator = Estimator()
    rows = list(_query(state, series).limit(limit).offset(offset))
    return [_row(job, estimator, runs) for job, runs in _with_runs(rows)]


def find_job(job_id: int) -> JobOverview | None:
    """Return one job."""
    rows = list(_query(None, None).where(Job.id == job_id))
    return next((_row(job, Estimator(), runs) for job, runs in _with_runs(rows)), None)


def count_jobs(*, state: JobState | None = None, series: int | None = None) -> int:
    """Return how many jobs there are."""
    return int(_query(state, series).count())


def _query(state: JobState | None, series: int | None) -> Any:  # noqa: ANN401 - peewee's is private
    newer = Job.alias()
    newest = Job.id == newer.select(fn.MAX(newer.id)).where(newer.series == Job.series)
    active = newest & Series.state.in_([one.value for one in ACTIVE])
    now = Case(
        None,
        (
            (active & Job.lease_owner.is_null(False), JobState.RUNNING.value),
            (active, JobState.WAITING.value),
            (newest & (Series.state == State.FAILED.value), JobState.FAILED.value),
            (newest & (Series.state == State.CANCELLED.value), JobState.CANCELLED.value),
            # What is made of files is done without the PACS.
            (newest & (Series.state == State.DONE.value), JobState.DONE.value),
            (Job.delivered_at.is_null(False), JobState.DONE.value),
        ),
        JobState.SUPERSEDED.value,
    )
    query = (
        Job.select(Job, Series, now.alias("now"), newest.alias("newest"))
        .join(Series)
        .where(Job.deleted_at.is_null())
        .order_by(Job.id.desc())
    )
    if state is not None:
        query = query.where(now == state.value)
    return query.where(Job.series == series) if series is not None else query


def _with_runs(jobs: list[Job]) -> Iterator[tuple[Job, list[StageRun]]]:
    of: dict[int, list[StageRun]] = {job.id: [] for job in jobs}
    for run in StageRun.select().where(StageRun.job.in_(list(of))).order_by(StageRun.id):
        of[run.job_id].append(run)
    for job in jobs:
        yield job, of[job.id]


def _row(job: Any, estimator: Estimator, runs: list[StageRun]) -> JobOverview:  # noqa: ANN401
    state = JobState(job.now)
    under_way = state in (JobState.WAITING, JobState.RUNNING)
    return JobOverview(
        id=job.id,
        series=job.series_id,
        study_instance_uid=job.series.study_instance_uid,
        series_instance_uid=job.series.series_instance_uid,
        state=state,
        reason=job.series.reason if job.newest else "",
        recipe=job.recipe,
        stage=job.stage or None,
        progress=job.progress,
        attempts=job.attempts,
        next_try_at=next_try(job) if under_way else None,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        delivered_at=job.delivered_at,
        committed_at=job.committed_at,
        result_series_uid=job.result_series_uid,
        result_instances=job.result_instances,
        time_left=estimator.time_left(job) if under_way else None,
        stages=tuple(
            StageOverview(run.stage, run.started_at, run.seconds, run.finished) for run in runs
        ),
    )
