"""What lasts: files that outlive a power cut, and how a disk says that it is full."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["is_disk_full", "placed", "sync"]


def sync(path: Path) -> None:
    """Return once a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Give the path of a draft, which gets the target's name once it is on the disk.

    The draft ends as the target does, for those who tell formats by the end of a name.
    """
    draft = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield draft
        sync(draft)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)  # what is cut off takes no room
        raise
    sync(target.parent)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether a file, or SQLite, found no room: it, or what it was raised for."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
