"""Files that no row names: what a crash left between a file and its row.

Only what is older than a day is looked at, so that nothing is taken that is being written, and a
file is removed under the write lock, so that no row can come to name it meanwhile.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from peewee import chunked

from mrisr_node import records
from mrisr_node.records import Instance, Job, Rejection, Series, State, StoredFile, Upload
from mrisr_node.settings import Settings

__all__ = ["remove_leftovers", "size_of"]

_log = logging.getLogger(__name__)

_OLD = 86_400.0
_CHUNK = 200
_SERIES_FOLDER = re.compile(r"[0-9a-f]{40}")
# A receiver that has stored into a folder may rely on it for as long as it runs.
_STARTED = time.time()


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder and below."""
    total = 0
    for file in _files(folder):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def remove_leftovers(settings: Settings, now: float) -> int:
    """Remove files of spool and quarantine, folders and pictures of jobs, that no record needs.

    Returns
    -------
    int
        How many files and folders were removed.
    """
    removed = _from_spool(settings.spool_dir, now) + _from_quarantine(settings.quarantine_dir, now)
    removed += _job_folders(settings.work_dir, now, _needed)
    removed += _job_folders(settings.previews_dir, now, _shown)
    removed += _by_key(settings.files_dir, now, StoredFile)
    removed += _by_key(settings.uploads_dir, now, Upload)
    if removed:
        _log.warning("%d leftover files and folders removed that no record names", removed)
    return removed


def _from_spool(spool: Path, now: float) -> int:
    def named(paths: list[str]) -> set[str]:
        # What came again after its series' copies were deleted is held for a day.
        rows = Instance.select(Instance.path).join(Series)
        rows = rows.where(Instance.path.in_(paths), Series.copies_deleted_at.is_null())
        return {row.path for row in rows}

    removed = 0
    for folder in _folders(spool):
        old = (str(file.relative_to(spool)) for file in _files(folder) if _is_old(file, now))
        for paths in chunked(old, _CHUNK):
            with records.transaction():
                removed += _unlink(spool, set(paths) - named(paths))
        if _SERIES_FOLDER.fullmatch(folder.name) and _is_old(folder, min(now, _STARTED + _OLD)):
            with suppress(OSError):  # there is something in it
                folder.rmdir()
    return removed


def _from_quarantine(quarantine: Path, now: float) -> int:
    removed = 0
    old = (file.name for file in _files(quarantine) if _is_old(file, now))
    for names in chunked(old, _CHUNK):
        with records.transaction():
            rows = Rejection.select(Rejection.path).where(Rejection.path.in_(names))
            removed += _unlink(quarantine, set(names) - {row.path for row in rows})
    return removed


def _by_key(folder: Path, now: float, table: type[StoredFile] | type[Upload]) -> int:
    """Remove files, and folders, whose names begin with the key of no row."""
    removed = 0
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        key = path.name.partition(".")[0]
        with records.transaction():
            if not _is_old(path, now) or table.select().where(table.key == key).exists():
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        removed += 1
    return removed


def _job_folders(work: Path, now: float, needed: Callable[[Job], bool]) -> int:
    removed = 0
    for folder in _folders(work):
        if not folder.name.isdecimal() or not _is_old(folder, now):
            continue
        if any(not _is_old(file, now) for file in _files(folder)):
            continue
        job = Job.get_or_none(Job.id == int(folder.name))
        if job is None or not needed(job):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _needed(job: Job) -> bool:
    """Tell whether a job may go on, now or when somebody tries it again."""
    if job.lease_owner is not None:
        return True
    series = Series.get_by_id(job.series_id)
    newest = Job.select().where(Job.series == series).order_by(Job.id.desc()).get()
    over = State(series.state) in (State.DONE, State.SKIPPED)
    return newest.id == job.id and not over and series.copies_deleted_at is None


def _shown(job: Job) -> bool:
    """Tell whether the pictures of a job's result are still kept."""
    return Series.get_by_id(job.series_id).copies_deleted_at is None


def _unlink(folder: Path, names: Iterable[str]) -> int:
    count = 0
    for name in names:
        (folder / name).unlink(missing_ok=True)
        count += 1
    return count


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _is_old(path: Path, now: float) -> bool:
    with suppress(FileNotFoundError):
        return now - path.stat().st_mtime > _OLD
    return False
