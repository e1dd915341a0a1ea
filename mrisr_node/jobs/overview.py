"""What people and tools are told about the series of the node: one row each, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from peewee import JOIN, fn

from mrisr_node.jobs.estimates import Estimate, Estimator
from mrisr_node.jobs.stages import SENDING, Queue
from mrisr_node.jobs.turns import next_try, waits_for
from mrisr_node.records import ACTIVE, Instance, Job, Series, State, folded

__all__ = ["Action", "SeriesOverview", "Which", "count", "find", "overview"]

# Of what somebody types.
_MOST_WORDS = 10


class Action(StrEnum):
    """What can be done about a series as it is now."""

    CANCEL = "cancel"
    RETRY = "retry"
    SEND_AGAIN = "send-again"
    """The PACS did not take its result, which is kept."""
    AGAIN = "again"
    """Have it processed again, though it was; of files, others are begun instead."""
    DELETE = "delete"
    """Delete the local copies."""


@dataclass(frozen=True)
class Which:
    """Which series are meant; what is left out does not matter."""

    state: State | None = None
    words: str = ""
    """All of these are in patient id, name, accession number or description; or it is a UID."""
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None


@dataclass(frozen=True)
class SeriesOverview:
    """One received series, where it is, why, and what came out of it."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    description: str
    modality: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str
    sender: str
    instances: int
    expected_instances: int | None
    state: str
    reason: str
    received_at: float
    state_at: float
    copies_deleted_at: float | None
    """When the files of its instances were deleted here; the PACS has them."""
    job: int | None
    """The id of its newest job; None where that was deleted, too."""
    job_deleted_at: float | None
    recipe: str | None
    stage: str | None
    progress: float
    """Part of the current stage that is done, 0 to 1."""
    waiting_for: Queue | None
    """Whose worker has to have time for its job; None while one works on it."""
    next_try_at: float | None
    """Until when its job is put off, seconds since the epoch."""
    time_left: Estimate | None
    """None where nothing is to be waited for."""
    result_series_uid: str | None
    dead_letter: bool
    """The PACS did not take its result, which is kept and can be sent again."""
    actions: tuple[Action, ...]
    format: str
    """``dicom``; ``nifti`` or ``pairs`` where it is made of uploaded files."""
    in_pacs: bool
    """Whether the PACS may know it; a NIfTI file that became no study there it does not."""


def overview(
    which: Which | None = None, *, limit: int = 100, offset: int = 0
) -> list[SeriesOverview]:
    """Return the received series, newest first."""
    estimator = Estimator()
    rows = _query(which or Which()).limit(limit).offset(offset)
    return [_row(series, estimator) for series in rows]


def find(series_id: int) -> SeriesOverview | None:
    """Return one series by its record id."""
    found = _query(Which()).where(Series.id == series_id)
    return next((_row(series, Estimator()) for series in found), None)


def count(which: Which | None = None) -> int:
    """Return how many series there are."""
    return int(Series.select().where(*_conditions(which or Which())).count())


def _conditions(which: Which) -> Iterator[Any]:
    yield Series.id.is_null(False)  # peewee wants at least one
    if which.state is not None:
        yield Series.state == which.state.value
    for field in (Series.study_instance_uid, Series.series_instance_uid):
        if wanted := getattr(which, field.name):
            yield field == wanted
    if words := folded(which.words).split():
        uid = which.words.strip()
        all_words = Series.words.contains(words[0])
        for word in words[1:_MOST_WORDS]:
            all_words &= Series.words.contains(word)
        is_uid = (Series.series_instance_uid == uid) | (Series.study_instance_uid == uid)
        yield all_words | is_uid


def _query(which: Which) -> Any:  # noqa: ANN401 - peewee's query type is private
    newest = Job.select(fn.MAX(Job.id)).where(Job.series == Series.id)
    instances = Instance.select(fn.COUNT(Instance.id)).where(Instance.series == Series.id)
    return (
        Series.select(Series, Job, instances.alias("received"))
        .join(Job, JOIN.LEFT_OUTER, on=(Job.id == newest), attr="job")
        .where(*_conditions(which))
        .order_by(Series.received_at.desc(), Series.id.desc())
    )


def _row(series: Any, estimator: Estimator) -> SeriesOverview:  # noqa: ANN401 - a joined row
    job = getattr(series, "job", None)
    deleted_at = job.deleted_at if job is not None else None
    if job is not None and (job.id is None or deleted_at is not None):
        job = None
    state = State(series.state)
    dead = bool(job and state is State.FAILED and job.stage in SENDING)
    result = _newest_result(series)
    return SeriesOverview(
        id=series.id,
        study_instance_uid=series.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        description=series.description,
        modality=series.modality,
        patient_id=series.patient_id or "",
        patient_name=series.patient_name,
        accession_number=series.accession_number,
        study_date=series.study_date,
        sender=series.sender,
        instances=series.received,
        expected_instances=series.expected_instances,
        state=series.state,
        reason=series.reason,
        received_at=series.received_at,
        state_at=series.state_at,
        copies_deleted_at=series.copies_deleted_at,
        job=job.id if job else None,
        job_deleted_at=deleted_at,
        recipe=job.recipe if job else None,
        stage=job.stage or None if job else None,
        progress=job.progress if job else 0.0,
        waiting_for=waits_for(job, state) if job else None,
        next_try_at=next_try(job) if job and state in ACTIVE else None,
        time_left=estimator.time_left(job) if job and state in ACTIVE else None,
        result_series_uid=result,
        dead_letter=dead,
        actions=tuple(_actions(series, job, dead)),
        format=series.format,
        in_pacs=series.format == "dicom" or result is not None,
    )


def _actions(series: Any, job: Job | None, dead: bool) -> Iterator[Action]:  # noqa: ANN401
    state = State(series.state)
    if state in ACTIVE and job is not None and job.stage not in SENDING:
        yield Action.CANCEL
    if state in (State.FAILED, State.CANCELLED):
        yield Action.SEND_AGAIN if dead else Action.RETRY
    if state in (State.DONE, State.SKIPPED) and series.format == "dicom":
        yield Action.AGAIN
    over = state in (State.DONE, State.SKIPPED, State.FAILED, State.CANCELLED)
    if over and job is not None and series.copies_deleted_at is None:
        yield Action.DELETE


def _newest_result(series: Any) -> str | None:  # noqa: ANN401 - as above
    """Return the newest result that the PACS has, which may be older than the newest job."""
    delivered = Job.select(Job.result_series_uid).where(
        Job.series == series.id, Job.delivered_at.is_null(False)
    )
    newest = delivered.order_by(Job.id.desc()).first()
    return newest.result_series_uid if newest else None
