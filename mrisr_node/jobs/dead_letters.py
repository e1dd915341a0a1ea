"""Results that the PACS did not take in all tries: kept in the job's folder, and sent again."""

from __future__ import annotations

from typing import Any

from peewee import fn

from mrisr_node.errors import NodeError
from mrisr_node.jobs.recovery import retry
from mrisr_node.jobs.result_files import has_whole_result
from mrisr_node.jobs.stages import SENDING
from mrisr_node.records import Job, Series, State, StateError
from mrisr_node.settings import Settings

__all__ = ["NoDeadLetter", "dead_letters", "send_again", "send_all_again"]

_SENDING = [stage.value for stage in SENDING]


class NoDeadLetter(NodeError):
    """The series has no result that waits for being sent again."""


def dead_letters() -> list[int]:
    """Return the ids of the series whose result the PACS did not take."""
    return [job.series_id for job in _undelivered()]


def send_again(settings: Settings, series_id: int) -> None:
    """Send the result of a series again, without computing it anew.

    Raises
    ------
    NoDeadLetter
        There is none, it did not fail while its result was sent, or the result's files are gone or
        damaged.
    """
    job = _undelivered().where(Job.series == series_id).first()
    if job is None:
        if not Series.select().where(Series.id == series_id).exists():
            raise NoDeadLetter(f"there is no series {series_id}")
        raise NoDeadLetter(f"series {series_id} has no result that the PACS did not take")
    if not has_whole_result(settings.work_dir / str(job.id)):
        Job.update(stage="").where(Job.id == job.id).execute()
        raise NoDeadLetter(
            f"the result of series {series_id} is no longer there, or damaged: try the series"
            " again, and it is computed anew"
        )
    try:
        retry(series_id)
    except StateError as error:
        raise NoDeadLetter(f"series {series_id} has moved on; look again") from error


def send_all_again(settings: Settings) -> list[int]:
    """Send every result again that the PACS did not take; return the ids of their series."""
    sent = []
    for series_id in dead_letters():
        try:
            send_again(settings, series_id)
        except NoDeadLetter:
            continue  # it has moved on, or its own button says what is the matter
        sent.append(series_id)
    return sent


def _undelivered() -> Any:  # noqa: ANN401 - peewee's query type is private
    newest = Job.alias()
    last = newest.select(fn.MAX(newest.id)).where(newest.series == Series.id)
    return (
        Job.select()
        .join(Series)
        .where(
            Job.id == last,
            Job.deleted_at.is_null(),
            Job.stage.in_(_SENDING),
            Series.state == State.FAILED.value,
        )
        .order_by(Job.id)
    )
