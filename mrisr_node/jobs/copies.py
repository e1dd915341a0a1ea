"""Deleting what the node keeps of a series, once nobody needs it here any more.

First the record says that the copies are deleted, then they are; what a crash leaves in between is
found by ``leftovers``. The record stays, and so do the rows of the instances: an instance that
comes again is known by them and opens nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from mrisr_node import records
from mrisr_node.errors import NodeError
from mrisr_node.jobs.findings import previews_of
from mrisr_node.jobs.given_files import FILES_DELETED, FILES_READY, goes_to_pacs
from mrisr_node.jobs.leftovers import size_of
from mrisr_node.records import ACTIVE, Instance, Job, Series, State, StoredFile
from mrisr_node.settings import Settings

__all__ = ["HeldByPacs", "StillNeeded", "delete_copies", "delete_job", "forget_deleted_instances"]

HeldByPacs = Callable[[str, str], set[str]]
"""Asked with study and series UID: the SOP Instance UIDs that the PACS shows; raises
`DeliveryError` where it cannot be asked."""


class StillNeeded(NodeError):
    """The copies of a series have to stay."""

    def __init__(self, reason: str, missing: int = 0) -> None:
        super().__init__(reason)
        self.missing = missing
        """How many of its instances the PACS does not show."""


def delete_copies(settings: Settings, series: Series, shown: set[str], at: float) -> int:
    """Delete the local copies of a series that has ended; return how many bytes that frees.

    Parameters
    ----------
    series
        As it was before the PACS was asked.
    shown
        The SOP Instance UIDs of it that the PACS shows.

    Raises
    ------
    StillNeeded
        It has moved on, its result is not confirmed, or the PACS lacks some of it.
    """
    with records.transaction():
        now = Series.get_by_id(series.id)
        instances = list(Instance.select().where(Instance.series == series))
        jobs = list(Job.select().where(Job.series == series, Job.lease_owner.is_null()))
        if (now.state, now.state_at) != (series.state, series.state_at):
            raise StillNeeded("the series has moved on; look again")
        if not _confirmed(now):
            raise StillNeeded("the PACS has not shown the result yet")
        # What a peer was promised (storage commitment) is kept from here on by the PACS.
        missing = len({instance.sop_instance_uid for instance in instances} - shown)
        if missing:
            raise StillNeeded(
                f"the PACS does not show {missing} of its {len(instances)} instances; send them"
                " there, and its copies are deleted",
                missing,
            )
        reason = now.reason.replace(FILES_READY, FILES_DELETED)
        Series.update(copies_deleted_at=at, reason=reason).where(Series.id == series.id).execute()
        files = list(StoredFile.select().where(StoredFile.job.in_(jobs)))
        StoredFile.delete().where(StoredFile.job.in_(jobs)).execute()
    paths = [settings.spool_dir / instance.path for instance in instances]
    with records.transaction():
        # Opened again in this moment, it needs what it has.
        if Series.get_by_id(series.id).copies_deleted_at is not None:
            for path in paths:
                path.unlink(missing_ok=True)
    for file in files:
        (settings.files_dir / file.key).unlink(missing_ok=True)
    freed = sum(instance.size for instance in instances) + sum(file.size for file in files)
    return freed + sum(_delete_folders(settings, job) for job in jobs)


def delete_job(settings: Settings, job_id: int, held_by_pacs: HeldByPacs) -> None:
    """Delete a job that is over, with all local copies where it is the newest of its series.

    The PACS loses nothing, and is asked nothing where the series never came from it: of what was
    made of files, these go, too.

    Raises
    ------
    StillNeeded
        It is not over, or the node has the only copy of something.
    DeliveryError
        The PACS cannot be asked what it has.
    """
    job = Job.get_by_id(job_id)
    series = Series.get_by_id(job.series_id)
    newest = Job.select().where(Job.series == series).order_by(Job.id.desc()).get()
    if job.lease_owner is not None and job.lease_until > time.time():
        raise StillNeeded("a worker is still at it; try again in a few seconds")
    if newest.id == job.id:
        if State(series.state) in (State.RECEIVING, State.COMPLETE, *ACTIVE):
            raise StillNeeded("it is not over; cancel it first, or wait until it is done")
        if series.copies_deleted_at is None:
            shown = (
                held_by_pacs(series.study_instance_uid, series.series_instance_uid)
                if series.format == "dicom"
                else set()
            )
            delete_copies(settings, series, shown, time.time())
    else:
        _delete_folders(settings, job)
    Job.update(deleted_at=time.time()).where(Job.id == job.id).execute()


def forget_deleted_instances(settings: Settings, series: Series) -> int:
    """Forget the deleted instances of a series that opened again, so that they are asked for.

    A late slice alone makes no volume: while the others have rows, nobody would send them. The
    write lock is held.
    """
    instances = Instance.select().where(Instance.series == series)
    gone = [i.id for i in instances if not (settings.spool_dir / i.path).exists()]
    Instance.delete().where(Instance.id.in_(gone)).execute()
    Series.update(copies_deleted_at=None).where(Series.id == series.id).execute()
    return len(gone)


def _delete_folders(settings: Settings, job: Job) -> int:
    folder = settings.work_dir / str(job.id)
    freed = size_of(folder)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(previews_of(settings, job.id), ignore_errors=True)
    return freed


def _confirmed(series: Series) -> bool:
    """Tell whether the PACS has shown the result of a series that is done, and is to have it."""
    if series.state != State.DONE.value:
        return True
    newest = Job.select().where(Job.series == series).order_by(Job.id.desc()).first()
    return newest is not None and (newest.delivered_at is not None or not goes_to_pacs(newest))
