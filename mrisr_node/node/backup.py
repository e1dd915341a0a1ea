"""A backup of a node that may be running, and bringing it back.

A backup is one tar file: the files of the spool and the quarantine, the secrets, the databases,
and last a manifest with the SHA-256 of each. First the records are copied (SQLite's online backup,
one moment), then the files that this copy names, which never change and can only be deleted
meanwhile; what was deleted is taken out of the copy before it goes into the tar. So no row of a
backup names a file that is not in it. The folders of jobs are not in it: what was under way begins
anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, Field

from mrisr_node import __version__
from mrisr_node.durable import sync
from mrisr_node.errors import NodeError, SettingsError
from mrisr_node.migrations import STEPS
from mrisr_node.node.restored_records import begin_anew
from mrisr_node.settings import Settings

__all__ = ["BackupError", "Contents", "back_up", "restore"]

_MANIFEST = "manifest.json"
_RECORDS, _QUEUES, _AUDIT = "records.sqlite", "queues.sqlite", "audit.sqlite"
_BLOCK = 1024**2
_DRAFT = ".restoring"
# What a restore moves out of its draft before the records.
_MOVED = frozenset({_QUEUES, _AUDIT, "secrets", "quarantine", "spool", "files"})
# What a file of a backup may be called; nothing else becomes a path.
_NAME = re.compile(
    r"(records|queues|audit)\.sqlite|secrets/[\w-]{1,64}|files/[0-9a-f]{32}"
    r"|quarantine/[0-9a-f]{40}\.dcm|spool/[0-9a-f]{40}/[0-9a-f]{40}-[0-9a-f]{24}\.dcm"
)
_SPOOLED = """
    SELECT 'spool/' || path, sha256 FROM instance JOIN series ON series.id = series_id
    WHERE copies_deleted_at IS NULL
"""
_QUARANTINED = "SELECT 'quarantine/' || path, NULL FROM rejection"
_STORED = "SELECT 'files/' || key, sha256 FROM storedfile"
_NAMED = f"{_SPOOLED} UNION ALL {_QUARANTINED} UNION ALL {_STORED}"

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


class BackupError(NodeError):
    """A backup cannot be made, or not be trusted."""


class _File(BaseModel):
    sha256: str
    size: int = Field(ge=0)


class _Manifest(BaseModel):
    """What is in a backup, file by file, and who made it."""

    software: str
    tables: int
    """The version of the tables (``migrations``)."""
    made_at: float
    files: dict[str, _File]
    damaged: tuple[str, ...] = ()
    """Files that were missing, or not what the records said, when it was made."""


@dataclass(frozen=True)
class Contents:
    """What a backup holds, in figures."""

    path: Path
    files: int
    size: int
    """Bytes of all files."""
    damaged: tuple[str, ...] = ()
    """Files of the node that were missing, or not what the records said, when it was made."""


def back_up(
    settings: Settings, target: Path, progress: Progress = lambda _done, _all: None
) -> Contents:
    """Write a backup to a file that is not there yet, or under a name of its own into a folder.

    Raises
    ------
    BackupError
        It cannot be written, or the records are of another version.
    SettingsError
        There is no node in the data directory.
    """
    if not settings.database_path.is_file():
        raise SettingsError(f"there is no node in {settings.data_dir}; set data_dir")
    if target.suffix != ".tar" and not target.is_dir():
        raise BackupError(
            f"there is no folder {target}; make it, or name the file to write (NAME.tar)"
        )
    if target.is_dir():
        target = target / time.strftime("mrisr-backup-%Y%m%d-%H%M%S.tar")
    if target.exists():
        raise BackupError(f"{target} is there already; name another file")
    draft = target.with_name(f".{target.name}.part")
    try:
        with (
            _written(draft) as file,
            # Of the records' copy; readable to us alone, as everything here.
            tempfile.TemporaryDirectory(prefix=".mrisr-backup-", dir=target.parent) as folder,
        ):
            manifest = _write(settings, file, Path(folder), progress)
        draft.replace(target)
        sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise BackupError(f"{target} cannot be written: {words}") from error
    finally:
        draft.unlink(missing_ok=True)
    return _contents(target, manifest)


def restore(
    settings: Settings, source: Path, progress: Progress = lambda _done, _all: None
) -> Contents:
    """Bring a node back from a backup, into a data directory that is empty or not there yet.

    The whole backup is compared with its manifest before anything is written. One that was cut off
    has left `_DRAFT`, and is done anew.

    Raises
    ------
    BackupError
        It is damaged, or made by a newer version.
    SettingsError
        The data directory is not empty.
    """
    data = settings.data_dir
    draft = data / _DRAFT
    leftovers = _leftovers(data)
    try:
        with tarfile.open(source) as tar:
            manifest = _verified(tar, progress)
            draft.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in [*leftovers, *draft.iterdir()]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for name in manifest.files:
                _extract(tar, name, draft / name)
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise BackupError(f"{source} is no backup, or damaged ({type(error).__name__})") from error
    except OSError as error:
        raise BackupError(f"{source} cannot be restored: {error.strerror}") from error
    begin_anew(draft / _RECORDS)
    os.sync()
    # The records come last: without them, what is there is no node yet.
    for path in draft.iterdir():
        if path.name != _RECORDS:
            path.rename(data / path.name)
    sync(data)
    (draft / _RECORDS).rename(data / _RECORDS)
    sync(data)
    draft.rmdir()
    sync(data)
    return _contents(source, manifest)


def _leftovers(data: Path) -> list[Path]:
    """Return what a restore that was cut off has moved already; refuse a folder with anything else.

    The draft's folder goes last of all, so it tells them from what is somebody's own.
    """
    there = [path for path in data.iterdir() if path.name != _DRAFT] if data.exists() else []
    begun = (data / _DRAFT).is_dir()
    if begun and data / _RECORDS in there:
        raise SettingsError(
            f"{data} holds a whole node: the restore that was cut off had ended but for removing"
            f" its empty folder {_DRAFT}; start the node"
        )
    if there and not (begun and all(_is_ours(path.name) for path in there)):
        raise SettingsError(f"{data} is not empty; set data_dir to an empty or a new folder")
    return there


def _is_ours(name: str) -> bool:
    # The records of an earlier version keep a copy beside them (`migrations`).
    return name in _MOVED or name.startswith(_RECORDS)


def _write(settings: Settings, file: IO[bytes], folder: Path, progress: Progress) -> _Manifest:
    data = settings.data_dir
    files: dict[str, _File] = {}
    missing, damaged = [], []
    _copy_database(settings.database_path, folder / _RECORDS)
    with closing(sqlite3.connect(folder / _RECORDS)) as copy:
        (tables,) = copy.execute("PRAGMA user_version").fetchone()
        if tables != len(STEPS):
            raise BackupError(
                f"the tables of the records have version {tables}, and this version of mrisr_node"
                f" knows {len(STEPS)}: back them up with the version that wrote them, or stop the"
                f" node and copy {data}"
            )
        wanted: dict[str, str | None] = dict(copy.execute(_NAMED))
        for path in (data / "secrets").glob("[!.]*"):
            wanted[f"secrets/{path.name}"] = None
        sizes = {name: path.stat().st_size for name in wanted if (path := data / name).is_file()}
        with tarfile.open(fileobj=file, mode="w") as tar:
            done, everything = 0, sum(sizes.values())
            for name, sha256 in wanted.items():
                added = _add(tar, data / name, name) if _NAME.fullmatch(name) else None
                if added is None:
                    missing.append(name)
                    continue
                files[name] = added
                if sha256 not in (None, added.sha256):
                    damaged.append(name)
                done += added.size
                progress(done, everything)
            damaged += _take_out(copy, settings.database_path, missing)
            copy.close()
            for path in (settings.queue_path, settings.audit_path):
                if path.is_file():
                    _copy_database(path, folder / path.name)
            for name in (_QUEUES, _AUDIT, _RECORDS):
                if added := _add(tar, folder / name, name):
                    files[name] = added
            manifest = _Manifest(
                software=__version__,
                tables=tables,
                made_at=time.time(),
                files=files,
                damaged=tuple(damaged),
            )
            (folder / _MANIFEST).write_text(manifest.model_dump_json(indent=1))
            _add(tar, folder / _MANIFEST, _MANIFEST)
    return manifest


def _take_out(copy: sqlite3.Connection, database: Path, missing: list[str]) -> list[str]:
    """Have the copy name no file that is missing; return those that should be there.

    Files may go while the backup is made: then the database, as it is now, does not name them. What
    retention took so is in the PACS. A file that is lost takes its row alone with it: the others of
    its series may be the only copies there are.
    """
    with closing(sqlite3.connect(database)) as live:
        still = dict(live.execute(_NAMED)) if missing else {}
    copy.execute("PRAGMA foreign_keys = on")
    for name in missing:
        kind, _, path = name.partition("/")
        if kind == "quarantine":
            copy.execute("DELETE FROM rejection WHERE path = ?", (path,))
        elif kind == "files":
            copy.execute("DELETE FROM storedfile WHERE key = ?", (path,))
        elif kind == "spool" and name in still:
            copy.execute("DELETE FROM instance WHERE path = ?", (path,))
        elif kind == "spool":
            copy.execute(
                "UPDATE series SET copies_deleted_at = ?"
                " WHERE id IN (SELECT series_id FROM instance WHERE path = ?)",
                (time.time(), path),
            )
    # What has not come whole begins anew: its bytes are not in the backup.
    copy.execute("DELETE FROM upload WHERE state NOT IN ('done', 'refused')")
    copy.commit()
    return [name for name in missing if name in still]


def _copy_database(path: Path, target: Path) -> None:
    """Copy a database as it is at one moment, into one file."""
    with closing(sqlite3.connect(path, timeout=30)) as source, closing(
        sqlite3.connect(target)
    ) as copy:  # fmt: skip
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = delete")


def _add(tar: tarfile.TarFile, path: Path, name: str) -> _File | None:
    """Add a file, unless it is not there."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        member = tarfile.TarInfo(name)
        member.size = os.fstat(file.fileno()).st_size
        member.mtime, member.mode = int(time.time()), 0o600
        reader = _Hashing(file)
        tar.addfile(member, reader)
    return _File(sha256=reader.digest.hexdigest(), size=member.size)


class _Hashing:
    """Reads a file and takes its digest on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.digest.update(block)
        return block


def _verified(tar: tarfile.TarFile, progress: Progress) -> _Manifest:
    """Return the manifest, once every file of it is what it says."""
    with _member(tar, _MANIFEST) as file:
        manifest = _Manifest.model_validate_json(file.read())
    if manifest.tables > len(STEPS):
        raise BackupError(
            f"the backup was made by mrisr_node {manifest.software}, which is newer; install that"
        )
    if _RECORDS not in manifest.files:
        raise KeyError(_RECORDS)
    done, everything = 0, sum(one.size for one in manifest.files.values())
    for name, one in manifest.files.items():
        if not _NAME.fullmatch(name):
            raise BackupError("the backup's manifest names a file that is none of a node's")
        with _member(tar, name) as file:
            digest = hashlib.sha256()
            while block := file.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != one.sha256:
            raise BackupError(f"the backup is damaged: {name} is not what its manifest says")
        done += one.size
        progress(done, everything)
    return manifest


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    file = tar.extractfile(tar.getmember(name))
    if file is None:
        raise KeyError(name)
    return file


def _extract(tar: tarfile.TarFile, name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with _member(tar, name) as source, os.fdopen(descriptor, "wb") as target:
        shutil.copyfileobj(source, target, _BLOCK)


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that nobody else may read, and make it durable."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _contents(path: Path, manifest: _Manifest) -> Contents:
    total = sum(one.size for one in manifest.files.values())
    return Contents(path, len(manifest.files), total, manifest.damaged)
