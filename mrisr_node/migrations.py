"""How the records' tables come from an earlier version's to this one's, in numbered steps.

The number of steps that a database has behind it is its ``user_version`` (SQLite). A step is frozen
once it has been released: it names tables, columns and fields itself and never the models, which go
on changing. A new table needs no step, since what is missing is made anyway; whatever changes a
table that is there needs one.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from peewee import CharField, Field, FloatField, SqliteDatabase, TextField
from playhouse.migrate import SqliteMigrator, migrate

from mrisr_node.durable import sync
from mrisr_node.errors import SettingsError

__all__ = ["STEPS", "Step", "up_to_date"]

_log = logging.getLogger(__name__)


class _Tables:
    """What steps do to tables."""

    def __init__(self, engine: SqliteDatabase) -> None:
        self._engine = engine
        self._migrator = SqliteMigrator(engine)

    def add(self, table: str, column: str, field: Field) -> None:
        """Add a column; one that must not be null needs a default, which the rows there get.

        A table that is not there yet is made with all of its columns once the steps are done.
        """
        if self._engine.table_exists(table):
            migrate(self._migrator.add_column(table, column, field))

    def rename(self, table: str, column: str, to: str) -> None:
        """Give a column another name."""
        if self._engine.table_exists(table):
            migrate(self._migrator.rename_column(table, column, to))

    def drop(self, table: str, column: str) -> None:
        """Remove a column and what it holds."""
        if self._engine.table_exists(table):
            migrate(self._migrator.drop_column(table, column))


Step = Callable[[_Tables], None]


def _retention_quarantine_and_commitment(tables: _Tables) -> None:
    tables.add("series", "copies_deleted_at", FloatField(null=True))
    tables.add("instance", "committed_at", FloatField(null=True))
    tables.add("job", "committed_at", FloatField(null=True))
    tables.add("rejection", "address", CharField(default=""))


def _front_door(tables: _Tables) -> None:
    tables.add("apitoken", "scopes", CharField(default=""))
    tables.add("user", "disabled_at", FloatField(null=True))
    tables.add("series", "patient_id", CharField(null=True))
    for column in ("patient_name", "accession_number", "study_date"):
        tables.add("series", column, CharField(default=""))
    tables.add("series", "words", TextField(default=""))
    tables.add("job", "deleted_at", FloatField(null=True))
    tables.add("series", "format", CharField(default="dicom"))


STEPS: Sequence[Step] = (_retention_quarantine_and_commitment, _front_door)
"""In order; the first one leads from version 0, that of 0.1.0, to version 1."""


@contextmanager
def up_to_date(engine: SqliteDatabase, path: Path) -> Iterator[None]:
    """Bring the tables of a database up to date; inside, what is missing of them is to be made.

    All of it is one transaction: a process that starts at the same time waits for it, and finds
    nothing left to do. The database as it was is kept beside it as ``NAME.before-N``, N being the
    version that follows.

    Raises
    ------
    SettingsError
        A newer version has written the database.
    """
    # A table that is changed is made anew; with foreign keys on, dropping the old one would take
    # the rows that refer to it along. Inside a transaction the switch does nothing.
    engine.pragma("foreign_keys", 0)
    try:
        with engine.atomic("IMMEDIATE"):
            found, wanted = int(engine.pragma("user_version")), len(STEPS)
            if found > wanted:
                raise SettingsError(
                    f"{path} was written by a newer version of mrisr_node (its tables have version"
                    f" {found}, this one knows {wanted}): install that version again, or restore a"
                    " backup that this one made"
                )
            if found < wanted and engine.get_tables():
                _keep(path, path.with_name(f"{path.name}.before-{wanted}"))
                for number, step in enumerate(STEPS[found:], start=found + 1):
                    step(_Tables(engine))
                    _log.info("%s: its tables now have version %d", path.name, number)
            yield
            if found < wanted:
                engine.pragma("user_version", wanted)
    finally:
        engine.pragma("foreign_keys", 1)


def _keep(path: Path, copy: Path) -> None:
    """Copy the database as it is now; the caller holds the write lock."""
    draft = copy.with_name(f".{copy.name}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(draft)) as target:
        source.backup(target)
        # One file that needs no other beside it.
        target.execute("PRAGMA journal_mode = delete")
    sync(draft)
    draft.replace(copy)
