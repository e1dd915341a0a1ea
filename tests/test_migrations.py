"""Opening the records of an earlier version: migrated once, nothing lost, a copy kept."""

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from peewee import CharField

from mrisr_node import migrations, records
from mrisr_node.errors import SettingsError
from mrisr_node.records import Instance, Job, Rejection, Series, open_records

VERSION_0 = Path(__file__).with_name("records_version_0.sql")
TABLES = ("series", "transition", "instance", "rejection", "job", "stagerun", "user",
          "websession", "apitoken")  # fmt: skip


@pytest.fixture
def old(tmp_path):
    """The database of version 0.1.0."""
    path = tmp_path / "records.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_0.read_text())
    yield path
    records.database.close()


def _rows(path, table):
    """Return the rows of a table by id, each as column and value."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute(f'SELECT * FROM "{table}"').fetchall()
    return {row["id"]: dict(row) for row in found}


def _schema(path):
    """Return what sqlite_master says, without regard to spaces, quotes and the order of columns."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
    schema = {}
    for kind, name, sql in found:
        head, _, body = re.sub(r'[\s"]+', " ", sql).partition("(")
        parts = re.split(r",(?![^(]*\))", body.removesuffix(")"))
        schema[kind, name] = head.split(), sorted(tuple(part.split()) for part in parts)
    return schema


def _version(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def test_the_previous_version_is_migrated_and_keeps_every_row(old, tmp_path):
    before = {table: _rows(old, table) for table in TABLES}
    open_records(old)
    for table in TABLES:
        after = _rows(old, table)
        assert after.keys() == before[table].keys()
        for number, row in before[table].items():
            assert row.items() <= after[number].items(), table
    assert before["series"][1]["description"] == "it's ä T1"
    assert Series.get_by_id(1).copies_deleted_at is None
    assert Rejection.get().address == ""
    open_records(tmp_path / "fresh.sqlite")
    assert _schema(old) == _schema(tmp_path / "fresh.sqlite")
    assert _version(old) == _version(tmp_path / "fresh.sqlite") == len(migrations.STEPS)


def test_references_hold_after_a_table_was_made_anew(old):
    open_records(old)
    assert records.database.execute_sql("PRAGMA foreign_key_check").fetchall() == []
    assert records.database.pragma("foreign_keys") == 1
    Series.delete().where(Series.id == 1).execute()
    assert Instance.select().count() == 4
    assert Job.select().count() == 1


def test_a_copy_of_what_was_stays(old):
    open_records(old)
    [copy] = old.parent.glob("records.sqlite.before-*")
    assert copy.name == f"records.sqlite.before-{len(migrations.STEPS)}"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert _version(copy) == 0
    assert len(_rows(copy, "instance")) == 6
    assert "address" not in _rows(copy, "rejection")[1]


def test_a_fresh_or_migrated_database_is_left_alone(old, tmp_path):
    open_records(tmp_path / "fresh.sqlite")
    open_records(tmp_path / "fresh.sqlite")
    open_records(old)
    copy = old.with_name(f"{old.name}.before-{len(migrations.STEPS)}")
    copy.unlink()
    open_records(old)
    assert not list(tmp_path.glob("*.before-*"))


def test_a_newer_database_is_refused(old):
    open_records(old)
    records.database.pragma("user_version", 99)
    records.database.close()
    with pytest.raises(SettingsError, match="newer version"):
        open_records(old)
    assert _version(old) == 99


def test_a_step_that_fails_leaves_everything_as_it_was(old, monkeypatch):
    before = _schema(old)

    def stumble(tables):
        tables.add("job", "colour", CharField(default="red"))
        raise RuntimeError("out of tea")

    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, stumble))
    with pytest.raises(RuntimeError, match="tea"):
        open_records(old)
    records.database.close()
    assert _schema(old) == before
    assert _version(old) == 0
    monkeypatch.undo()
    open_records(old)
    assert _version(old) == len(migrations.STEPS)


def test_later_steps_add_rename_and_drop(old, monkeypatch):
    open_records(old)
    monkeypatch.setattr(
        migrations,
        "STEPS",
        (
            *migrations.STEPS,
            lambda tables: tables.add("job", "colour", CharField(default="red", index=True)),
            lambda tables: tables.rename("job", "colour", "hue"),
            lambda tables: tables.drop("job", "voxels"),
            # A table that comes with a later version is made whole, not step by step.
            lambda tables: tables.add("tomorrow", "x", CharField(default="")),
        ),
    )
    records.database.close()
    open_records(old)
    assert [row["hue"] for row in _rows(old, "job").values()] == ["red", "red"]
    assert "voxels" not in _rows(old, "job")[1]
    assert len(_rows(old, "stagerun")) == 2
    assert old.with_name(f"{old.name}.before-{len(migrations.STEPS)}").is_file()


def test_processes_that_start_at_once_migrate_once(old):
    code = (
        "import sys; from pathlib import Path; from mrisr_node.records import *;"
        "sys.stdin.readline(); open_records(Path(sys.argv[1])); print(Instance.select().count())"
    )
    starting = [
        subprocess.Popen([sys.executable, "-c", code, old], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]  # fmt: skip
    for process in starting:
        process.stdin.write("now\n")
        process.stdin.flush()
    assert [process.communicate(timeout=120)[0].strip() for process in starting] == ["6"] * 4
    assert _version(old) == len(migrations.STEPS)
    assert _rows(old.with_name(f"{old.name}.before-{len(migrations.STEPS)}"), "series").keys() == {
        1, 2, 3,
    }  # fmt: skip
