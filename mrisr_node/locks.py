"""One process at a time: a lock on a file or folder, which ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mrisr_node.errors import SettingsError

__all__ = ["claim", "held"]


def claim(path: Path, taken: str) -> IO[str]:
    """Return the open lock file; whoever holds it has it to itself until it is closed.

    Raises
    ------
    SettingsError
        Somebody else has it; the message is `taken`.
    """
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise SettingsError(taken) from error
    return file


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, once whoever holds it has given it back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
