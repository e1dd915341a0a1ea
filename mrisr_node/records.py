"""The node's memory: what arrived, what became of it, and who may ask.

One SQLite file (peewee), shared by every process of the node, and the only truth about state: a
queue message is a wake-up, never a fact. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from peewee import (
    AutoField,
    BooleanField,
    CharField,
    DatabaseError,
    DatabaseProxy,
    FloatField,
    ForeignKeyField,
    IntegerField,
    Model,
    SqliteDatabase,
    TextField,
)

from mrisr_node.errors import NodeError
from mrisr_node.logs import get_logger
from mrisr_node.migrations import up_to_date

__all__ = [
    "ACTIVE", "DIED", "DISK_FULL", "ApiToken", "Beat", "CommitmentReport", "CommitmentRequest",
    "Failure", "Instance", "Job", "RefusalReport", "Rejection", "ResultSeries", "Series",
    "StageRun", "State", "StateError", "Transition", "User", "WebSession", "connection",
    "open_records", "owner_name", "transaction",
]  # fmt: skip

database = DatabaseProxy()

_log = get_logger(__name__)


class State(StrEnum):
    """Where a series is on its way."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    SKIPPED = "skipped"
    QUEUED = "queued"
    PREPARING = "preparing"
    RESOLVING = "resolving"
    DELIVERING = "delivering"
    DONE = "done"
    FAILED = "failed"


ACTIVE = (State.QUEUED, State.PREPARING, State.RESOLVING, State.DELIVERING)

DIED = "Died"
"""The kind of failure of a stage whose worker ended in the middle, killed or out of memory."""

DISK_FULL = "DiskFull"
"""The kind of failure of a stage that found no room for what it made."""

# A late slice re-opens a series from wherever it is. From there no way leads but completeness:
# what was found out about the slices before the late one says nothing any more. A job that is
# tried again goes on where it failed, so a queued series may go to any of the working states.
_NEXT: dict[State, frozenset[State]] = {
    State.RECEIVING: frozenset({State.COMPLETE}),
    State.COMPLETE: frozenset({State.SKIPPED, State.QUEUED, State.FAILED, State.RECEIVING}),
    State.SKIPPED: frozenset({State.RECEIVING}),
    State.QUEUED: frozenset(
        {State.PREPARING, State.RESOLVING, State.DELIVERING, State.FAILED, State.RECEIVING}
    ),
    State.PREPARING: frozenset({State.RESOLVING, State.FAILED, State.RECEIVING}),
    State.RESOLVING: frozenset({State.DELIVERING, State.FAILED, State.RECEIVING}),
    State.DELIVERING: frozenset({State.DONE, State.FAILED, State.RECEIVING}),
    State.DONE: frozenset({State.RECEIVING}),
    State.FAILED: frozenset({State.QUEUED, State.RECEIVING}),
}


class StateError(NodeError):
    """A series was asked to go where no way leads from its state."""


class _Record(Model):
    id = AutoField()

    class Meta:
        database = database


class Series(_Record):
    """A received series and the state it is in."""

    series_instance_uid = CharField(unique=True)
    study_instance_uid = CharField(index=True)
    modality = CharField(default="")
    description = CharField(default="")
    sender = CharField(default="")
    state = CharField(default=State.RECEIVING.value, index=True)
    reason = TextField(default="")
    state_at = FloatField(default=time.time)
    received_at = FloatField(default=time.time)
    last_instance_at = FloatField(default=time.time, index=True)
    expected_instances = IntegerField(null=True)
    copies_deleted_at = FloatField(null=True)
    """When its local copies were deleted (``jobs.retention``); its instances keep their rows."""

    def move(self, to: State, reason: str = "") -> None:
        """Change the state, in one transaction with the line that says when and why.

        Raises
        ------
        StateError
            No way leads there from the state that the series has in the database now.
        """
        with database.atomic("IMMEDIATE"):
            now = Series.get_by_id(self.id)
            if to not in _NEXT[State(now.state)]:
                raise StateError(f"series {self.id} cannot go from {now.state} to {to}")
            at = time.time()
            Series.update(state=to.value, reason=reason, state_at=at).where(
                Series.id == self.id
            ).execute()
            Transition.create(series=self, source=now.state, target=to.value, reason=reason, at=at)
        self.state, self.reason, self.state_at = to.value, reason, at
        # Inside a larger transaction this is said just before it is true; the rows are the truth.
        say = _log.warning if to is State.FAILED else _log.info
        say("series moved", series=self.id, source=now.state, target=to.value, reason=reason)


class Transition(_Record):
    """One change of a series' state."""

    series = ForeignKeyField(Series, backref="transitions", on_delete="CASCADE")
    source = CharField()
    target = CharField()
    reason = TextField(default="")
    at = FloatField()


class Instance(_Record):
    """A SOP instance on the spool; the row exists only once its file is durable."""

    series = ForeignKeyField(Series, backref="instances", on_delete="CASCADE")
    series_id: int  # peewee's own accessor of the foreign key's value
    sop_instance_uid = CharField(unique=True)
    path = CharField(index=True)
    sha256 = CharField()
    size = IntegerField()
    sender = CharField(default="")
    received_at = FloatField(default=time.time)
    committed_at = FloatField(null=True)
    """When a peer was promised that it is kept (Storage Commitment)."""


class Rejection(_Record):
    """A received object that was put into quarantine."""

    sop_instance_uid = CharField(default="")
    path = CharField()
    reason = TextField()
    sender = CharField(default="")
    address = CharField(default="")
    """Of the peer that sent it, where it is known."""
    at = FloatField(default=time.time)


class Job(_Record):
    """The processing of one complete series; the newest of a series counts."""

    series = ForeignKeyField(Series, backref="jobs", on_delete="CASCADE")
    series_id: int  # peewee's own accessor of the foreign key's value
    recipe = CharField()
    stage = CharField(default="")
    progress = FloatField(default=0.0)
    attempts = IntegerField(default=0)
    not_before = FloatField(default=0.0)
    lease_owner = CharField(null=True)
    lease_until = FloatField(default=0.0)
    voxels = IntegerField(default=0)
    created_at = FloatField(default=time.time)
    started_at = FloatField(null=True)
    finished_at = FloatField(null=True)
    result_series_uid = CharField(null=True)
    result_instances = IntegerField(null=True)
    delivered_at = FloatField(null=True)
    """When the PACS showed the whole result."""
    committed_at = FloatField(null=True)
    """When the PACS promised to keep the whole result (Storage Commitment)."""
    outcome = TextField(default="{}")
    """JSON: fidelity figures, checkpoint identity, what was sent where."""


class StageRun(_Record):
    """One run of one stage of a job: what the estimates learn from."""

    job = ForeignKeyField(Job, backref="runs", on_delete="CASCADE")
    stage = CharField(index=True)
    started_at = FloatField()
    seconds = FloatField(null=True)
    voxels = IntegerField(default=0)
    peak_bytes = IntegerField(null=True)
    finished = BooleanField(default=False)


class ResultSeries(_Record):
    """A series that a job wrote: never taken for one that was acquired."""

    job = ForeignKeyField(Job, backref="series_written", on_delete="CASCADE")
    series_instance_uid = CharField(unique=True)


class RefusalReport(_Record):
    """A report in the PACS that says why nothing was made of a series."""

    series = ForeignKeyField(Series, backref="refusals", on_delete="CASCADE")
    series_instance_uid = CharField(index=True)
    """Of the report."""
    failed_at = FloatField()
    """When the series failed (`Series.state_at`): one that fails again is reported again."""
    sent_at = FloatField()


class Failure(_Record):
    """One time that something of a series did not work; what was tried again counts each time."""

    series = ForeignKeyField(Series, backref="failures", null=True, on_delete="SET NULL")
    stage = CharField()
    """Of the job; ``selection`` where there was none yet."""
    kind = CharField()
    """The error's class, or `DIED`."""
    at = FloatField(default=time.time)


class Beat(_Record):
    """The last sign of life of a long-running process (``beats``)."""

    process = CharField(unique=True)
    owner = CharField()
    at = FloatField()
    details = TextField(default="{}")
    """JSON: what else it says of itself."""


class CommitmentRequest(_Record):
    """What the PACS was asked to keep (PS3.4 J), and its answer, which may come much later."""

    transaction_uid = CharField(unique=True)
    instances = TextField()
    """JSON: the SOP Instance UIDs."""
    asked_at = FloatField(default=time.time)
    answered_at = FloatField(null=True)
    failed = TextField(default="{}")
    """JSON: the SOP Instance UIDs that it does not keep, each with its reason."""


class CommitmentReport(_Record):
    """What a peer asked us to keep, and the report that we owe it until it has it."""

    peer = CharField()
    transaction_uid = CharField()
    instances = TextField()
    """JSON: pairs of SOP Class and SOP Instance UID."""
    received_at = FloatField(default=time.time)
    failed = TextField(null=True)
    """JSON: what we do not have, each with its reason; null until it is worked out."""
    attempts = IntegerField(default=0)
    not_before = FloatField(default=0.0)
    ended_at = FloatField(null=True, index=True)
    """When the peer took the report, or we gave up."""
    end = CharField(default="")
    """How it ended, in words."""

    class Meta:  # noqa: D106
        indexes = ((("peer", "transaction_uid"), True),)


class User(_Record):
    """A person who may sign in."""

    username = CharField(unique=True)
    password_hash = CharField()
    role = CharField(default="admin")
    created_at = FloatField(default=time.time)


class WebSession(_Record):
    """A signed-in browser; only the digest of its cookie is kept."""

    digest = CharField(unique=True)
    user = ForeignKeyField(User, on_delete="CASCADE")
    expires_at = FloatField()


class ApiToken(_Record):
    """A tool's bearer token; only its digest is kept."""

    digest = CharField(unique=True)
    user = ForeignKeyField(User, on_delete="CASCADE")
    name = CharField()
    created_at = FloatField(default=time.time)
    expires_at = FloatField(null=True)


_TABLES = [
    Series, Transition, Instance, Rejection, Job, StageRun, ResultSeries, RefusalReport, Failure,
    Beat, CommitmentRequest, CommitmentReport, User, WebSession, ApiToken,
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
