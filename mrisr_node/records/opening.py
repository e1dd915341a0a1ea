"""Opening the records, at the start of every process."""

from __future__ import annotations

from pathlib import Path

from peewee import DatabaseError, SqliteDatabase

from mrisr_node.errors import NodeError
from mrisr_node.migrations import up_to_date
from mrisr_node.records.engine import database
from mrisr_node.records.idempotency import IdempotencyKey
from mrisr_node.records.jobs import Job, ResultSeries, StageRun
from mrisr_node.records.peers import Beat, CommitmentReport, CommitmentRequest
from mrisr_node.records.people import ApiSession, ApiToken, SignInFailures, User, WebSession
from mrisr_node.records.series import (
    Failure,
    Instance,
    RefusalReport,
    Rejection,
    Series,
    Transition,
)
from mrisr_node.records.uploads import Batch, NiftiSeries, PairsSeries, StoredFile, Upload

__all__ = ["open_records"]

_TABLES = [
    Series, Transition, Instance, Rejection, Job, StageRun, ResultSeries, RefusalReport, Failure,
    Beat, CommitmentRequest, CommitmentReport, User, WebSession, ApiSession, ApiToken,
    SignInFailures, IdempotencyKey, StoredFile, Upload, Batch, NiftiSeries, PairsSeries,
]  # fmt: skip


def open_records(path: Path) -> None:
    """Open the database file for this process, bring it up to date and make what is missing of it.

    Raises
    ------
    SettingsError
        A newer version of the node has written it.
    NodeError
        It is locked for longer than we wait, damaged, or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Descriptions, names and password hashes: for us alone, wherever the folder lies.
    if not path.exists():
        path.touch(mode=0o600)
    engine = SqliteDatabase(
        str(path),
        pragmas={
            "journal_mode": "wal",
            # An acknowledged instance must survive a power cut; WAL's default syncs too rarely.
            "synchronous": "full",
            "foreign_keys": 1,
            "busy_timeout": 20_000,
        },
    )
    database.initialize(engine)
    try:
        with up_to_date(engine, path):
            engine.create_tables(_TABLES)
    except DatabaseError as error:
        raise NodeError(f"{path} cannot be used: {error}") from error
