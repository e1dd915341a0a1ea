"""Quarantine, backup and restore, as an operator types them."""

import json
import os
import subprocess
import sys

import pytest

from mrisr_node.records import Instance, Rejection, Series, open_records
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


def test_backup_and_restore(settings, make_settings, tmp_path):
    Series.create(series_instance_uid="1.2.3", study_instance_uid="1.2")
    made = _run(settings, "backup", tmp_path / "a.tar")
    assert made.returncode == 0, made.stderr
    assert "a.tar: 1 file," in made.stdout.replace("\n", "")
    other = make_settings(data_dir=tmp_path / "other")
    refused = _run(settings, "restore", tmp_path / "a.tar")
    assert refused.returncode == 2
    assert "not empty" in refused.stderr
    restored = _run(other, "restore", tmp_path / "a.tar")
    assert restored.returncode == 0, restored.stderr
    open_records(other.database_path)
    assert Series.get().series_instance_uid == "1.2.3"


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
