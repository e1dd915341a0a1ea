"""The demonstration: what it finds in a folder, and the whole way with a small series."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_files import odd_group_length
from pydicom import dcmread

from mrisr_node.errors import SettingsError
from mrisr_node.node import demo
from mrisr_node.node.sample import Acquisition, SampleSeries, Study, write_sample
from mrisr_node.settings import Settings


def test_series_are_found_among_other_files(tmp_path: Path) -> None:
    tiny, study = Acquisition(slices=2, matrix=16), Study()
    one = write_sample(tmp_path / "a" / "deep", tiny, study=study)
    other = write_sample(tmp_path / "b", tiny, study=study, series_number=2)
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "cut.dcm").write_bytes(one.paths[0].read_bytes()[:200])
    found = {s.series_uid: s for s in demo._read_series(tmp_path)}
    assert set(found) == {one.series_uid, other.series_uid}
    assert found[one.series_uid].paths == {"1.2.840.10008.1.2.1": list(one.paths)}
    assert [s.series_uid for s in demo._read_series(one.paths[0])] == [one.series_uid]


@pytest.mark.parametrize(
    ("states", "succeeded"),
    [
        (["done"], True),
        (["done", "skipped", None], True),
        (["done", "failed"], False),
        (["done", "wrong"], False),
        (["skipped"], False),
        ([None], False),
        ([], False),
    ],
)
def test_success_needs_a_verified_result_and_no_failure(
    states: list[str | None], succeeded: bool
) -> None:
    sent = []
    for state in states:
        series = demo._Sent("1.2", "1.3", "")
        if state is not None:
            series.view = {"state": "done" if state == "wrong" else state}
        series.problems = ["it is upside down"] if state == "wrong" else []
        sent.append(series)
    assert demo._succeeded(sent) is succeeded


def test_odd_headers_are_passed_over(tmp_path: Path) -> None:
    one = write_sample(tmp_path, Acquisition(slices=2, matrix=16))
    odd_group_length(one.paths[0], tmp_path / "odd.dcm")
    no_study = dcmread(one.paths[0])
    del no_study.StudyInstanceUID
    no_study.save_as(tmp_path / "no-study.dcm")
    [found] = demo._read_series(tmp_path)
    assert len(found.headers) == 2


def test_a_folder_without_dicom_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no DICOM"):
        demo._read_series(tmp_path)


def test_taken_ports_are_replaced_and_old_data_removed(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    old = settings.data_dir / "demo" / "old"
    old.mkdir(parents=True)
    taken = {settings.web_port, settings.pacs_port}
    monkeypatch.setattr(demo, "port_is_free", lambda port: port not in taken)
    prepared = demo._prepare(settings)
    assert prepared.data_dir == settings.data_dir / "demo"
    assert not old.exists()
    assert prepared.web_port not in taken
    assert prepared.pacs_port not in taken
    assert prepared.receiver_port == settings.receiver_port


def run_demo(settings: Settings, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mrisr_node.cli", "demo", "--dicom", str(folder), "--exit"]
    return subprocess.run(
        command, env=settings.environment() | {"COLUMNS": "60"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.usefixtures("needs_orthanc")
def test_the_whole_way(make_settings: Callable[..., Settings], sample_series: SampleSeries) -> None:
    done = run_demo(make_settings(checkpoint=("thin-quick",)), sample_series.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["study"] == sample_series.study_uid
    assert answer["source_series"] == sample_series.series_uid
    assert answer["result_series"] not in (None, sample_series.series_uid)
    assert answer["result_series"] in answer["viewer_url"]
    assert {"convert", "brain", "superresolve", "write", "store"} <= set(answer["stages"])
    assert all(seconds >= 0 for seconds in answer["stages"].values())
    assert "verified" in done.stdout


@pytest.mark.usefixtures("needs_orthanc")
def test_nothing_processed_is_no_success(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    write_sample(tmp_path, Acquisition(slices=4, matrix=32))
    done = run_demo(make_settings(), tmp_path)
    assert done.returncode == 1
    assert "skipped" in done.stdout
    assert not done.stdout.rstrip().endswith("}")
