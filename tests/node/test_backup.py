"""Backing up a node that goes on, and bringing it back elsewhere."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing

import pytest

from mrisr_node import records
from mrisr_node.errors import SettingsError
from mrisr_node.intake.assembly import Assembly
from mrisr_node.intake.quarantine import Quarantine
from mrisr_node.jobs.dead_letters import dead_letters
from mrisr_node.jobs.leftovers import remove_leftovers
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.recovery import recover, retry
from mrisr_node.jobs.stages import Queue
from mrisr_node.node import backup
from mrisr_node.node.backup import back_up, restore
from mrisr_node.people.access_tokens import begin_api_session, holder_of_access_token
from mrisr_node.people.audit import Action, Filter, open_audit, record, search
from mrisr_node.people.tokens import create_token, holder_of_token
from mrisr_node.people.users import ensure_admin, find_user
from mrisr_node.records import (
    Instance,
    Job,
    Rejection,
    Series,
    State,
    StoredFile,
    Transition,
    Upload,
    open_records,
)
from tests.spooling import refuse

SLICES = 5


def _named(settings):
    """Return the files that the records name."""
    spooled = Instance.select().join(Series).where(Series.copies_deleted_at.is_null())
    return [settings.spool_dir / row.path for row in spooled] + [
        settings.quarantine_dir / row.path for row in Rejection.select()
    ]


def test_a_series_that_was_received_assembles_after_a_restore_elsewhere(
    received, elsewhere, tmp_path, few_slices
):
    ensure_admin(received)
    token = create_token("admin", "tool")
    grant = begin_api_session(received, find_user("admin"))
    open_audit(received.audit_path)
    record(Action.QUERY, patient_id="P1")
    seen = []
    made = back_up(received, tmp_path, lambda done, total: seen.append((done, total)))
    assert made.path.parent == tmp_path
    assert made.path.suffix == ".tar"
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert (made.files, made.damaged) == (SLICES + 6, ())
    assert seen[-1][0] == seen[-1][1] > 0
    restored = restore(elsewhere, made.path)
    assert (restored.files, restored.size) == (made.files, made.size)

    open_records(elsewhere.database_path)
    assert all(path.is_file() for path in _named(elsewhere))
    assert elsewhere.secret("orthanc-password") == received.secret("orthanc-password")
    assert Queues(elsewhere).waiting(Queue.CPU) == {1}
    assert holder_of_token(token).username == "admin"
    # A session may have been ended since.
    assert holder_of_access_token(elsewhere, grant.access_token) is None
    open_audit(elsewhere.audit_path)
    assert search(Filter(patient_id="P1"), 1)[0] == 1
    assert Quarantine(elsewhere).entries()[0].size == len(b"junk")
    [job] = Assembly(elsewhere, clock=lambda: time.time() + 60).sweep()
    assert job.voxels == 32 * 32 * SLICES
    assert Series.get().state == State.QUEUED
    # Nothing else lies about.
    left = {path.name for path in elsewhere.data_dir.iterdir()}
    # SQLite's own of connections that are still open.
    assert {name for name in left if not name.endswith(("-wal", "-shm"))} == {
        "records.sqlite", "queues.sqlite", "audit.sqlite", "spool", "quarantine", "secrets"
    }  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"node", "other", made.path.name}


def test_what_was_under_way_begins_anew(received, elsewhere, tmp_path):
    series = Series.get()
    for state in (State.COMPLETE, State.QUEUED, State.PREPARING, State.RESOLVING):
        series.move(state)
    Job.create(series=series, recipe="native", stage="superresolve", attempts=2,
               lease_owner="here:1:x", lease_until=time.time() + 999)  # fmt: skip
    failed = Series.create(series_instance_uid="1.9", study_instance_uid="1", state="failed")
    Job.create(series=failed, recipe="native", stage="superresolve")
    Transition.create(series=failed, source="resolving", target="failed", at=1.0)
    restore(elsewhere, back_up(received, tmp_path / "a.tar").path)
    open_records(elsewhere.database_path)
    assert Series.get_by_id(1).state == State.QUEUED
    assert Transition.select().order_by(Transition.id.desc()).get().reason == (
        "restored from a backup"
    )
    retry(failed.id)
    assert recover(Queues(elsewhere)) == 1  # the other has its message already
    assert Queues(elsewhere).waiting(Queue.CPU) == {1, 2}
    assert {(job.stage, job.attempts, job.lease_owner) for job in Job.select()} == {("", 0, None)}


def test_a_result_that_waits_for_its_promise_begins_anew(received, elsewhere, tmp_path):
    series = Series.get()
    for state in (State.COMPLETE, State.QUEUED, State.PREPARING, State.RESOLVING,
                  State.DELIVERING):  # fmt: skip
        series.move(state)
    earlier = Job.create(series=series, recipe="native", delivered_at=1.0, committed_at=2.0)
    waiting = Job.create(series=series, recipe="native", stage="commit", delivered_at=3.0,
                         lease_owner="here:1:x", lease_until=time.time() + 999)  # fmt: skip
    # One that failed while its promise was asked for keeps no result, either.
    failed = Series.create(series_instance_uid="1.9", study_instance_uid="1", state="failed")
    refused = Job.create(series=failed, recipe="native", stage="commit", delivered_at=4.0)
    restore(elsewhere, back_up(received, tmp_path / "a.tar").path)
    open_records(elsewhere.database_path)
    waiting, refused = Job.get_by_id(waiting.id), Job.get_by_id(refused.id)
    assert Series.get_by_id(series.id).state == State.QUEUED
    assert (waiting.stage, waiting.lease_owner, waiting.delivered_at) == ("", None, None)
    assert refused.stage == ""
    assert dead_letters() == []
    # What the PACS got before stays in view.
    assert Job.get_by_id(earlier.id).committed_at == 2.0
    Queues(elsewhere)._hueys[Queue.CPU].flush()
    recover(Queues(elsewhere))
    assert Queues(elsewhere).waiting(Queue.CPU) == {waiting.id}


def test_what_arrives_and_goes_meanwhile_leaves_the_backup_whole(
    received, elsewhere, tmp_path, monkeypatch
):
    """Retention and the quarantine's page delete, the receiver stores, while files are copied."""
    real, done = backup._add, []

    def meanwhile(tar, path, name):
        if not done:
            done.append(True)
            Series.update(copies_deleted_at=1.0).execute()
            for row in Instance.select():
                (received.spool_dir / row.path).unlink()
            quarantine = Quarantine(received)
            quarantine.delete(quarantine.entries()[0].key)
            refuse(received, b"new", "junk", "X")
        return real(tar, path, name)

    monkeypatch.setattr(backup, "_add", meanwhile)
    made = back_up(received, tmp_path / "a.tar")
    assert made.damaged == ()
    restore(elsewhere, made.path)
    open_records(elsewhere.database_path)
    assert all(path.is_file() for path in _named(elsewhere))
    assert Series.get().copies_deleted_at
    assert Instance.select().count() == SLICES
    assert Rejection.select().count() == 0


def test_a_node_that_lost_or_altered_files_is_told_and_backed_up(received, elsewhere, tmp_path):
    paths = [received.spool_dir / row.path for row in Instance.select().order_by(Instance.id)]
    paths[0].write_bytes(b"rotten")
    next(received.quarantine_dir.iterdir()).unlink()
    made = back_up(received, tmp_path / "a.tar")
    assert [name.partition("/")[0] for name in made.damaged] == ["spool", "quarantine"]
    restore(elsewhere, made.path)
    open_records(elsewhere.database_path)
    assert all(path.is_file() for path in _named(elsewhere))


def test_one_lost_file_costs_the_series_no_other(received, elsewhere, tmp_path):
    lost, *others = Instance.select().order_by(Instance.id)
    (received.spool_dir / lost.path).unlink()
    made = back_up(received, tmp_path / "a.tar")
    assert made.damaged == (f"spool/{lost.path}",)
    assert restore(elsewhere, made.path).damaged == made.damaged
    open_records(elsewhere.database_path)
    assert Series.get().copies_deleted_at is None
    assert {row.path for row in Instance.select()} == {row.path for row in others}
    for file in _named(elsewhere):
        os.utime(file, (1, 1))
    remove_leftovers(elsewhere, time.time())
    assert all((elsewhere.spool_dir / row.path).is_file() for row in others)


def test_files_are_in_it_and_what_has_not_come_whole_is_not(received, elsewhere, tmp_path):
    received.files_dir.mkdir()
    kept, lost = (
        StoredFile.create(
            key=digit * 32, owner="admin", name="head.nii", size=4, media_type="",
            sha256=hashlib.sha256(b"data").hexdigest(),
        )
        for digit in "ab"
    )  # fmt: skip
    (received.files_dir / kept.key).write_bytes(b"data")
    for number, (file, state) in enumerate([(kept, "done"), (lost, "done"), (None, "receiving")]):
        Upload.create(
            key=str(number), owner="admin", name="head.nii", size=4, file=file, state=state
        )
    made = back_up(received, tmp_path)
    assert made.damaged == (f"files/{lost.key}",)
    restore(elsewhere, made.path)
    open_records(elsewhere.database_path)
    assert [file.key for file in StoredFile.select()] == [kept.key]
    assert (elsewhere.files_dir / kept.key).read_bytes() == b"data"
    assert [upload.file_id for upload in Upload.select()] == [kept.id, None]


def test_writers_are_not_held_up(received, tmp_path):
    """A transaction that is open while the backup is made is not in it, and not in its way."""
    with records.transaction():
        Series.create(series_instance_uid="1.9", study_instance_uid="1")
        made = back_up(received, tmp_path / "a.tar")
    with tarfile.open(made.path) as tar:
        tar.extract("records.sqlite", tmp_path / "out")
    with closing(sqlite3.connect(tmp_path / "out" / "records.sqlite")) as copy:
        assert copy.execute("SELECT count(*) FROM series").fetchone() == (1,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# Restores, and is killed before it renames or removes for the given time.
DYING = """
import os, signal, sys
from pathlib import Path
from mrisr_node.node.backup import restore
from mrisr_node.settings import load_settings
left = int(sys.argv[2])
def look(event, arguments):
    global left
    if event in ("os.rename", "os.rmdir") and ".restoring" in str(arguments[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
restore(load_settings(), Path(sys.argv[1]))
"""


def test_a_restore_that_was_cut_off_is_done_anew(received, elsewhere, tmp_path):
    made = back_up(received, tmp_path / "a.tar")
    ends = []
    for step in range(20):
        died = subprocess.run(
            [sys.executable, "-c", DYING, str(made.path), str(step)],
            env=elsewhere.environment(), check=False,
        )  # fmt: skip
        if died.returncode == 0:
            break
        assert died.returncode == -signal.SIGKILL
        ends.append(elsewhere.database_path.exists())
        if ends[-1]:
            # All that was left to do is to remove the empty draft.
            with pytest.raises(SettingsError, match="holds a whole node"):
                restore(elsewhere, made.path)
        else:
            restore(elsewhere, made.path)
        open_records(elsewhere.database_path)
        assert all(path.is_file() for path in _named(elsewhere))
        assert Instance.select().count() == SLICES
        assert Queues(elsewhere).waiting(Queue.CPU) == {1}
        assert elsewhere.secret("orthanc-password") == received.secret("orthanc-password")
        records.database.close()
        shutil.rmtree(elsewhere.data_dir)
    assert ends == [False] * 5 + [True], "four folders and files, the records, the draft"
