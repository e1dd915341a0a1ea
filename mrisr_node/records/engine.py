"""The database file: one SQLite file (peewee), shared by every process of the node."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from peewee import AutoField, DatabaseProxy, Model

__all__ = ["Record", "connection", "database", "owner_name", "transaction"]

database = DatabaseProxy()


class Record(Model):
    """A row of any table."""

    id = AutoField()

    class Meta:  # noqa: D106
        database = database


@contextmanager
def connection() -> Iterator[None]:
    """Hold a connection for this thread and close it after, for threads that come and go."""
    with database.connection_context():
        yield


@contextmanager
def transaction(patience: float | None = None) -> Iterator[None]:
    """Hold the write lock from the start, so that what is read inside stays true until the end.

    Parameters
    ----------
    patience
        Seconds to wait for others to give the lock back, where the usual time is too long.
    """
    if patience is None:
        with database.atomic("IMMEDIATE"):
            yield
        return
    usual = database.pragma("busy_timeout")
    database.pragma("busy_timeout", int(1000 * patience))
    try:
        with database.atomic("IMMEDIATE"):
            yield
    finally:
        database.pragma("busy_timeout", usual)


def owner_name() -> str:
    """Return a name for this process that no other process, now or later, has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
