"""What people and tools are told about the series of the node: one row each, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peewee import JOIN, fn

from mrisr_node.jobs.estimates import Estimate, time_left
from mrisr_node.jobs.stages import SENDING
from mrisr_node.records import ACTIVE, Instance, Job, Series, State

__all__ = ["SeriesOverview", "count", "find", "overview"]


@dataclass(frozen=True)
class SeriesOverview:
    """One received series, where it is, why, and what came out of it."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    description: str
    modality: str
    sender: str
    instances: int
    expected_instances: int | None
    state: str
    reason: str
    received_at: float
    state_at: float
    copies_deleted_at: float | None
    """When the files of its instances were deleted here; the PACS has them."""
    recipe: str | None
    stage: str | None
    progress: float
    """Part of the current stage that is done, 0 to 1."""
    time_left: Estimate | None
    result_series_uid: str | None
    dead_letter: bool
    """The PACS did not take its result, which is kept and can be sent again."""


def overview(
    *, state: State | None = None, limit: int = 100, offset: int = 0
) -> list[SeriesOverview]:
    """Return the received series, newest first."""
    return [_row(series) for series in _query(state).limit(limit).offset(offset)]


def find(series_id: int) -> SeriesOverview | None:
    """Return one series by its record id."""
    return next((_row(s) for s in _query(None).where(Series.id == series_id)), None)


def count(state: State | None = None) -> int:
    """Return how many series there are."""
    query = Series.select()
    return int((query.where(Series.state == state.value) if state else query).count())


def _query(state: State | None) -> Any:  # noqa: ANN401 - peewee's query type is private
    newest = Job.select(fn.MAX(Job.id)).where(Job.series == Series.id)
    instances = Instance.select(fn.COUNT(Instance.id)).where(Instance.series == Series.id)
    query = (
        Series.select(Series, Job, instances.alias("received"))
        .join(Job, JOIN.LEFT_OUTER, on=(Job.id == newest), attr="job")
        .order_by(Series.received_at.desc(), Series.id.desc())
    )
    return query.where(Series.state == state.value) if state else query


def _row(series: Any) -> SeriesOverview:  # noqa: ANN401 - a joined row has attributes of its own
    job = getattr(series, "job", None)
    if job is not None and job.id is None:
        job = None
    return SeriesOverview(
        id=series.id,
        study_instance_uid=series.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        description=series.description,
        modality=series.modality,
        sender=series.sender,
        instances=series.received,
        expected_instances=series.expected_instances,
        state=series.state,
        reason=series.reason,
        received_at=series.received_at,
        state_at=series.state_at,
        copies_deleted_at=series.copies_deleted_at,
        recipe=job.recipe if job else None,
        stage=job.stage or None if job else None,
        progress=job.progress if job else 0.0,
        time_left=time_left(job) if job and State(series.state) in ACTIVE else None,
        result_series_uid=_newest_result(series),
        dead_letter=bool(job and series.state == State.FAILED.value and job.stage in SENDING),
    )


def _newest_result(series: Any) -> str | None:  # noqa: ANN401 - as above
    """Return the newest result that the PACS has, which may be older than the newest job."""
    delivered = Job.select(Job.result_series_uid).where(
        Job.series == series.id, Job.delivered_at.is_null(False)
    )
    newest = delivered.order_by(Job.id.desc()).first()
    return newest.result_series_uid if newest else None
