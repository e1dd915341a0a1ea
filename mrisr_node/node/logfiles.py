"""The log files of the node's processes: opened, and kept small while they are written."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO

__all__ = ["ROTATE_EVERY", "last_line", "open_log", "rotate"]

_log = logging.getLogger(__name__)

ROTATE_EVERY = 60.0
"""Seconds between two looks at the sizes."""
_MOST = 20 * 1024**2


def open_log(path: Path) -> IO[bytes]:
    """Open the log of a process that is about to start.

    Each write goes to the end, wherever that is by then, so the file may be emptied meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_large(path):
        path.replace(_old(path))
    return path.open("ab")


def last_line(path: Path) -> str:
    """Return the last line of a log that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "its log cannot be read"
    return next((line for line in reversed(lines) if line.strip()), "its log says nothing")


def rotate(paths: Iterable[Path]) -> None:
    """Copy the end of what has grown too large to ``.old.log``, and empty it.

    Its process goes on writing into the same file: Orthanc opens none of its own and could not be
    told to. A line that it writes between the copy and the emptying is cut or lost.
    """
    for path in paths:
        try:
            if _is_large(path):
                _rotate(path, _old(path))
        except OSError as error:  # on a full disk: once there is room
            _log.warning("%s cannot be rotated: %s", path.name, error.strerror)


def _rotate(path: Path, old: Path) -> None:
    old.unlink(missing_ok=True)  # first, for its room
    draft = old.with_name(f".{old.name}")
    try:
        with path.open("rb+") as log, draft.open("wb") as copy:
            beyond = os.fstat(log.fileno()).st_size - _MOST
            log.seek(max(0, beyond))
            shutil.copyfileobj(log, copy)
            copy.flush()
            log.truncate(0)
        draft.replace(old)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _old(path: Path) -> Path:
    return path.with_suffix(".old.log")


def _is_large(path: Path) -> bool:
    return path.exists() and path.stat().st_size > _MOST
