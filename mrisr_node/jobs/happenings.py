"""What has happened to series, and how far those are that something is done with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peewee import JOIN, fn

from mrisr_node.jobs.estimates import Estimate, Estimator
from mrisr_node.jobs.stages import Queue
from mrisr_node.jobs.turns import next_try, waits_for
from mrisr_node.records import ACTIVE, Instance, Job, Series, State, Transition

__all__ = ["Happening", "Standing", "happenings", "newest_happening", "standings"]

# What is being received or processed at one time is little; more is not followed so closely.
_MOST = 100


@dataclass(frozen=True)
class Happening:
    """One change of a series' state."""

    id: int
    series: int
    source: str
    target: str
    reason: str
    at: float


@dataclass(frozen=True)
class Standing:
    """How far one series is that is being received or processed now."""

    series: int
    state: str
    reason: str
    instances: int
    expected_instances: int | None
    job: int | None
    recipe: str | None
    stage: str | None
    progress: float
    waiting_for: Queue | None
    next_try_at: float | None
    time_left: Estimate | None


def happenings(after: int, most: int, series: int | None = None) -> list[Happening]:
    """Return what has happened since, oldest first."""
    rows = Transition.select().where(Transition.id > after).order_by(Transition.id).limit(most)
    if series is not None:
        rows = rows.where(Transition.series == series)
    return [
        Happening(row.id, row.series_id, row.source, row.target, row.reason, row.at) for row in rows
    ]


def newest_happening() -> int:
    """Return the id of what happened last, 0 where nothing ever did."""
    return Transition.select(fn.MAX(Transition.id)).scalar() or 0


def standings() -> list[Standing]:
    """Return how far the series are that somebody sends, or that were begun and are not over."""
    newest = Job.select(fn.MAX(Job.id)).where(Job.series == Series.id)
    instances = Instance.select(fn.COUNT(Instance.id)).where(Instance.series == Series.id)
    leased = Job.lease_owner.is_null(False)
    begun = Series.state.in_([state.value for state in ACTIVE if state is not State.QUEUED])
    # Between two queues nobody has them.
    under_way = (begun & Job.id.is_null(False)) | ((Series.state == State.QUEUED.value) & leased)
    rows = (
        Series.select(Series, Job, instances.alias("received"))
        .join(Job, JOIN.LEFT_OUTER, on=(Job.id == newest), attr="newest")
        .where((Series.state == State.RECEIVING.value) | under_way)
        .order_by(leased.desc(), Series.id.desc())
        .limit(_MOST)
    )
    estimator = Estimator()
    return [_standing(series, estimator) for series in rows]


def _standing(series: Any, estimator: Estimator) -> Standing:  # noqa: ANN401 - a joined row
    state = State(series.state)
    job = series.newest if state in ACTIVE else None
    return Standing(
        series=series.id,
        state=series.state,
        reason=series.reason,
        instances=series.received,
        expected_instances=series.expected_instances,
        job=job.id if job else None,
        recipe=job.recipe if job else None,
        stage=job.stage or None if job else None,
        progress=job.progress if job else 0.0,
        waiting_for=waits_for(job, state) if job else None,
        next_try_at=next_try(job) if job else None,
        time_left=estimator.time_left(job) if job else None,
    )
