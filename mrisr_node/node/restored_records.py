"""What is no longer true of the records that come out of a backup."""

from __future__ import annotations

import time
from pathlib import Path

from peewee import fn

from mrisr_node import records
from mrisr_node.records import ACTIVE, Job, Series, State, Transition, open_records

__all__ = ["begin_anew"]


def begin_anew(path: Path) -> None:
    """Have what was under way start from its first stage: the folders of jobs are gone.

    Nobody is signed in any more, and what the PACS was last asked is asked again.
    """
    open_records(path)
    try:
        with records.transaction():
            Job.update(
                stage="",
                progress=0.0,
                attempts=0,
                not_before=0.0,
                lease_owner=None,
                lease_until=0.0,
            ).execute()
            # One that was ended after the backup was made would be good again.
            for sessions in (records.WebSession, records.ApiSession):
                sessions.delete().execute()
            # A result may be in the PACS, and only its promise missing: both are asked for again.
            active = Series.select(Series.id).where(Series.state.in_([s.value for s in ACTIVE]))
            newest = Job.select(fn.MAX(Job.id)).where(Job.series.in_(active)).group_by(Job.series)
            Job.update(delivered_at=None, committed_at=None).where(Job.id.in_(newest)).execute()
            now, reason = time.time(), "restored from a backup"
            for series in Series.select().where(Series.state.in_([s.value for s in ACTIVE])):
                to = State.QUEUED if series.copies_deleted_at is None else State.RECEIVING
                Series.update(
                    state=to.value, reason=reason, state_at=now, last_instance_at=now
                ).where(Series.id == series.id).execute()
                Transition.create(
                    series=series, source=series.state, target=to.value, reason=reason, at=now
                )
    finally:
        records.database.close()
