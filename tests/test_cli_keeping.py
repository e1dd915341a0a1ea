"""Quarantine, backup and restore, as an operator types them."""

import json
import os
import pwd
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from pydicom import dcmread

from mrisr_node.jobs.result_files import digests_of
from mrisr_node.records import Instance, Job, Rejection, Series, State, User, open_records
from tests.spooling import refuse

TOOL = (sys.executable, "-m", "mrisr_node.cli")


@pytest.fixture
def settings(make_settings, tmp_path):
    made = make_settings(data_dir=tmp_path / "node", minimum_free_bytes=0)
    open_records(made.database_path)
    return made


def _run(settings, *arguments, words=""):
    return subprocess.run(
        [*TOOL, *map(str, arguments)],
        env=os.environ | {"MRISR_DATA_DIR": str(settings.data_dir), "COLUMNS": "200"},
        input=words, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_quarantine(settings):
    refuse(settings, b"junk", "cannot be read as DICOM [red]\x1b[2J", "SCANNER")
    [entry] = json.loads(_run(settings, "quarantine", "list", "--json").stdout)
    key = entry["key"]
    listed = _run(settings, "quarantine", "list").stdout
    assert key in listed
    assert "cannot be read as DICOM [red]" in listed
    assert "\x1b" not in listed
    shown = _run(settings, "quarantine", "show", key).stdout
    assert "AE title: SCANNER" in shown
    assert "Problem: it cannot be read as DICOM" in shown
    released = _run(settings, "quarantine", "release", key)
    assert released.returncode == 1
    assert "refused again" in released.stdout
    kept = _run(settings, "quarantine", "delete", key, words="n\n")
    assert kept.returncode == 1
    assert "for good?" in kept.stderr
    assert Rejection.select().count() == 1
    assert _run(settings, "quarantine", "delete", key, "--yes").returncode == 0
    assert Rejection.select().count() == 0
    unknown = _run(settings, "quarantine", "show", key)
    assert unknown.returncode == 1
    assert "no such object" in unknown.stderr


def _trail(settings):
    """What the audit trail has, oldest first: what was done, and whose data it was."""
    with closing(sqlite3.connect(settings.audit_path)) as trail:
        rows = trail.execute(
            "SELECT action, resource, patient_id, study_uid, series_uid, username, means, status"
            " FROM audit ORDER BY id"
        ).fetchall()
    who = pwd.getpwuid(os.getuid()).pw_name
    assert {row[5:] for row in rows} <= {(who, "command line", 200)}
    return [row[:5] for row in rows]


def test_what_is_done_with_quarantine_is_recorded_with_whose_it_was(settings, sample_series):
    encoded = sample_series.paths[0].read_bytes()
    header = dcmread(sample_series.paths[0], stop_before_pixels=True)
    whose = header.PatientID, header.StudyInstanceUID, header.SeriesInstanceUID
    assert all(whose)
    refuse(settings, encoded, "not of this world", "SCANNER")
    refuse(settings, b"junk", "cannot be read as DICOM", "SCANNER")
    listed = json.loads(_run(settings, "quarantine", "list", "--json").stdout)
    good, junk = (entry["key"] for entry in sorted(listed, key=lambda e: e["size"], reverse=True))
    _run(settings, "quarantine", "show", good)
    assert _run(settings, "quarantine", "show", "0" * 40).returncode == 1
    assert _run(settings, "quarantine", "release", good, junk).returncode == 1
    _run(settings, "quarantine", "delete", junk, words="n\n")
    assert _run(settings, "quarantine", "delete", junk, "--yes").returncode == 0
    nobody = ("", "", "")
    looked, changed = "Procedure Record", "Procedure Record Changed"
    assert _trail(settings) == [
        (looked, "mrisr-node quarantine list", *nobody),
        (looked, f"mrisr-node quarantine show {good}", *whose),
        (changed, f"mrisr-node quarantine release {good}", *whose),
        (changed, f"mrisr-node quarantine release {junk}", *nobody),
        (changed, f"mrisr-node quarantine delete {junk}", *nobody),
    ]


def test_what_is_done_with_series_is_recorded_with_whose_it_was(settings):
    series = Series.create(
        series_instance_uid="1.2.3", study_instance_uid="1.2", patient_id="P-1",
        state=State.FAILED.value,
    )  # fmt: skip
    dead = Series.create(
        series_instance_uid="1.2.4", study_instance_uid="1.2", patient_id="P-1",
        state=State.FAILED.value,
    )  # fmt: skip
    job = Job.create(series=dead, recipe="native", stage="store")
    folder = settings.work_dir / str(job.id) / "result"
    folder.mkdir(parents=True)
    (folder / "1.dcm").touch()
    (folder.parent / "result.json").write_text('{"instances": 1}')
    (folder.parent / "digests.json").write_text(json.dumps(digests_of(folder)))
    for arguments in (
        ["jobs", "--state", "failed"],
        ["jobs", "--retry", series.id],
        ["send-again", "--all"],
    ):
        done = _run(settings, *arguments)
        assert done.returncode == 0, done.stderr
    for arguments in (["jobs", "--retry", series.id], ["send-again", dead.id]):
        assert _run(settings, *arguments).returncode == 1, "it has moved on, and nothing is done"
    changed = "Procedure Record Changed"
    assert _trail(settings) == [
        ("Procedure Record", "mrisr-node jobs --state failed", "", "", ""),
        (changed, f"mrisr-node jobs --retry {series.id}", "P-1", "1.2", "1.2.3"),
        (changed, f"mrisr-node send-again {dead.id}", "P-1", "1.2", "1.2.4"),
    ]


def test_nothing_is_done_or_shown_where_it_cannot_be_recorded(settings, tmp_path):
    refuse(settings, b"junk", "cannot be read as DICOM", "SCANNER")
    [entry] = json.loads(_run(settings, "quarantine", "list", "--json").stdout)
    settings.audit_path.write_bytes(b"no database, but long enough to look like one " * 30)
    for arguments in (
        ["quarantine", "delete", "--yes", entry["key"]],
        ["quarantine", "list"],
        ["jobs"],
        ["backup", tmp_path / "a.tar"],
        ["user", "add", "ada"],
    ):
        done = _run(settings, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert "audit.sqlite cannot be used" in done.stderr
    assert Rejection.select().count() == 1
    assert not User.select().where(User.username == "ada").exists()
    assert not (tmp_path / "a.tar").exists()


def test_backup_and_restore(settings, make_settings, tmp_path):
    Series.create(series_instance_uid="1.2.3", study_instance_uid="1.2")
    made = _run(settings, "backup", tmp_path / "a.tar")
    assert made.returncode == 0, made.stderr
    # The records, and the audit trail.
    assert "a.tar: 2 files," in made.stdout.replace("\n", "")
    other = make_settings(data_dir=tmp_path / "other")
    refused = _run(settings, "restore", tmp_path / "a.tar")
    assert refused.returncode == 2
    assert "not empty" in refused.stderr
    restored = _run(other, "restore", tmp_path / "a.tar")
    assert restored.returncode == 0, restored.stderr
    open_records(other.database_path)
    assert Series.get().series_instance_uid == "1.2.3"
    nobody = ("", "", "")
    assert _trail(settings) == [("Export", f"mrisr-node backup {tmp_path / 'a.tar'}", *nobody)]
    # That the backup was made came after what is in it.
    assert _trail(other) == [("Import", f"mrisr-node restore {tmp_path / 'a.tar'}", *nobody)]


def test_a_lost_file_is_named_at_both_ends(settings, make_settings, tmp_path):
    series = Series.create(series_instance_uid="1.2.3", study_instance_uid="1.2")
    path = f"{'0' * 40}/{'1' * 40}-{'2' * 24}.dcm"
    Instance.create(series=series, sop_instance_uid="1.2.3.1", path=path, sha256="", size=1)
    made = _run(settings, "backup", tmp_path / "a.tar")
    assert made.returncode == 1
    restored = _run(make_settings(data_dir=tmp_path / "other"), "restore", tmp_path / "a.tar")
    assert restored.returncode == 0
    for told in (made, restored):
        assert path in told.stderr.replace("\n", "")
