"""The audit trail: who did what with whose data, from where, and what came of it.

A SQLite file of its own: looking at images never waits for what arrives, and its rows cannot be
changed or deleted, by triggers that belong to the file. Whoever owns the file can still remove all
of it; docs/security.md says what helps against that.

A row is written before the answer goes out, and what is to be changed is announced before it is.
Both outlive a crash of the process; the last ones may be lost when the machine loses power.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any

from peewee import (
    CharField,
    DatabaseError,
    DatabaseProxy,
    FloatField,
    IntegerField,
    Model,
    SqliteDatabase,
    TextField,
)
from playhouse.sqlite_ext import AutoIncrementField

from mrisr_node.errors import NodeError

__all__ = [
    "UNKNOWN",
    "Action",
    "AuditRow",
    "Filter",
    "announce",
    "let_go",
    "open_audit",
    "record",
    "record_all",
    "record_once",
    "search",
]

UNKNOWN = 0
"""Status of a change of which nobody wrote down what came of it."""

_database = DatabaseProxy()


class Action(StrEnum):
    """What was done; where DICOM has a word for it (PS3.15 A.5, CID 400 and 401), in that."""

    LOGIN = "Login"
    LOGOUT = "Logout"
    RENEWAL = "Session Renewed"
    QUERY = "Query"
    ACCESS = "DICOM Instances Accessed"
    TRANSFER = "DICOM Instances Transferred"
    EXPORT = "Export"
    IMPORT = "Import"
    RECORD = "Procedure Record"
    """What the node knows of a series, its jobs and its results was read."""
    CHANGE = "Procedure Record Changed"
    USERS = "User Security Attributes Changed"
    AUDIT = "Audit Log Used"
    RESTRICTED = "Use of Restricted Function"
    """Something else was refused."""


class AuditRow(Model):
    """One thing that was done, or refused."""

    id = AutoIncrementField()
    at = FloatField(default=time.time, index=True)
    username = CharField(default="", index=True)
    """Empty where nobody knows."""
    role = CharField(default="")
    means = CharField(default="")
    """By what: cookie, access token, a token's name, the command line."""
    address = CharField(default="")
    action = CharField()
    method = CharField(default="")
    resource = TextField(default="")
    """The path that was asked for, or the command."""
    query = TextField(default="")
    """What was searched for."""
    patient_id = CharField(default="", index=True)
    study_uid = CharField(default="", index=True)
    series_uid = CharField(default="")
    status = IntegerField(default=200)
    """As HTTP has it, or `UNKNOWN`."""

    class Meta:  # noqa: D106
        database = _database
        table_name = "audit"


class Announced(Model):
    """A change that is about to be made; it goes when the row of its outcome comes."""

    id = AutoIncrementField()
    facts = TextField()
    """JSON: the row, as far as it is known before."""

    class Meta:
        database = _database


# Only one process announces: the front door. What another one left, it left for good.
_under_way: set[int] = set()
_announcing = Lock()


# INSERT OR REPLACE would delete without a word to a trigger on deletions.
_APPEND_ONLY = """
CREATE TRIGGER IF NOT EXISTS audit_{name} BEFORE {event} ON audit {condition}
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END
"""
_TRIGGERS = [
    _APPEND_ONLY.format(name="no_update", event="UPDATE", condition=""),
    _APPEND_ONLY.format(name="no_delete", event="DELETE", condition=""),
    _APPEND_ONLY.format(
        name="no_replace",
        event="INSERT",
        condition="WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)",
    ),
]


@dataclass(frozen=True)
class Filter:
    """What is looked for; an empty word is no condition."""

    patient_id: str = ""
    study_uid: str = ""
    username: str = ""
    action: str = ""
    since: float | None = None
    until: float | None = None


def open_audit(path: Path) -> None:
    """Open the audit trail for this process, and make what is missing of it.

    Raises
    ------
    NodeError
        It cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
    engine = SqliteDatabase(
        str(path),
        pragmas={"journal_mode": "wal", "synchronous": "normal", "busy_timeout": 10_000},
    )
    _database.initialize(engine)
    try:
        with engine.atomic("IMMEDIATE"):
            engine.create_tables([AuditRow, Announced])
            for trigger in _TRIGGERS:
                engine.execute_sql(trigger)  # type: ignore[no-untyped-call]
    except DatabaseError as error:
        raise NodeError(f"{path} cannot be used: {error}") from error


def record(action: Action, **facts: object) -> None:
    """Write a row; `facts` are the columns of `AuditRow`."""
    AuditRow.create(action=action.value, **facts)


def record_all(rows: Iterable[Mapping[str, Any]], concluded: int | None = None) -> None:
    """Write several rows, or none of them; each as `record` takes it.

    Parameters
    ----------
    concluded
        What `announce` returned for the change whose outcome they tell.
    """
    with _database.atomic():
        for row in rows:
            record(**row)
        if concluded is not None:
            Announced.delete().where(Announced.id == concluded).execute()


def record_once(rows: Iterable[Mapping[str, Any]]) -> None:
    """Write those of several rows that do not stand there yet: of what is tried again and again."""
    with _database.atomic("IMMEDIATE"):
        for row in rows:
            same = (getattr(AuditRow, name) == value for name, value in row.items())
            if not AuditRow.select().where(*same).exists():
                record(**row)


def announce(facts: Mapping[str, Any]) -> int:
    """Write down what is about to be changed, so that it cannot be without a trace.

    What was announced before, and let go without its outcome, becomes a row of the trail.

    Parameters
    ----------
    facts
        As `record` takes them.

    Returns
    -------
    int
        For `record_all`, and in any case for `let_go`.
    """
    with _announcing:
        with _database.atomic("IMMEDIATE"):
            for left in Announced.select().where(Announced.id.not_in(list(_under_way))):
                AuditRow.create(**json.loads(left.facts))
                left.delete_instance()
            row = {"at": time.time(), **facts, "status": UNKNOWN}
            key: int = Announced.create(facts=json.dumps(row)).id
        _under_way.add(key)
    return key


def let_go(key: int) -> None:
    """End what `announce` began, whether its outcome was written down or not."""
    _under_way.discard(key)


def search(wanted: Filter, limit: int, offset: int = 0) -> tuple[int, list[AuditRow]]:
    """Return how many rows fit, and a page of them, newest first."""
    equal: Mapping[str, str] = {
        "patient_id": wanted.patient_id,
        "study_uid": wanted.study_uid,
        "username": wanted.username,
        "action": wanted.action,
    }
    rows = AuditRow.select()
    for column, value in equal.items():
        if value:
            rows = rows.where(getattr(AuditRow, column) == value)
    if wanted.since is not None:
        rows = rows.where(AuditRow.at >= wanted.since)
    if wanted.until is not None:
        rows = rows.where(AuditRow.at < wanted.until)
    page = rows.order_by(AuditRow.id.desc()).limit(limit).offset(offset)
    return rows.count(), list(page)
