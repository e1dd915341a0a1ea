"""A folder of series without a server: one that is odd does not keep the others back."""

from pathlib import Path

import pytest
from odd_files import odd_group_length
from pydicom import dcmread
from pydicom.errors import BytesLengthException

from mrisr_node.jobs import resolve
from mrisr_node.jobs.resolve import resolve_folder
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.volumes.folders import find_series

TINY = Acquisition(slices=2, matrix=16)


def test_a_file_on_which_pydicom_raises_is_passed_over(tmp_path):
    one = write_sample(tmp_path / "in", TINY)
    odd = tmp_path / "in" / "odd.dcm"
    odd_group_length(one.paths[0], odd)
    with pytest.raises(BytesLengthException):
        dcmread(odd)
    assert find_series(tmp_path / "in") == {one.series_uid: list(one.paths)}
    assert find_series(one.paths[0]) == {one.series_uid: [one.paths[0]]}
    assert find_series(odd) == {}


def test_an_error_of_any_kind_fails_its_series_only(tmp_path, monkeypatch, make_settings):
    bad, good = (write_sample(tmp_path / "in" / name, TINY) for name in ("a", "b"))

    def stage(stage, workspace):
        if workspace.sources == bad.paths:
            raise BytesLengthException("odd " * 200)
        workspace.result_dir.mkdir(exist_ok=True)

    monkeypatch.setattr(resolve, "run_stage", stage)
    results = resolve_folder(tmp_path / "in", tmp_path / "out", make_settings())
    assert [(r.series_instance_uid, r.state) for r in results] == [
        (bad.series_uid, "failed"),
        (good.series_uid, "done"),
    ]
    assert results[0].reason.startswith("convert: BytesLengthException: odd")
    assert len(results[0].reason) < 320


def test_a_taken_place_is_said_before_the_work(tmp_path, monkeypatch, make_settings):
    write_sample(tmp_path / "in", TINY)
    Path(tmp_path, "out", "series-001").mkdir(parents=True)
    monkeypatch.setattr(resolve, "run_stage", lambda *_: pytest.fail("it worked for nothing"))
    [result] = resolve_folder(tmp_path / "in", tmp_path / "out", make_settings())
    assert (result.state, result.reason) == (
        "failed",
        "series-001 exists already in the target folder",
    )


def test_a_folder_with_two_patients_in_one_series_gives_no_result(tmp_path, make_settings):
    one = write_sample(tmp_path / "in", Acquisition(slices=6, matrix=16))
    for path in one.paths[1::2]:
        other = dcmread(path)
        other.PatientID = "ZP-4711-X"
        other.save_as(path)
    settings = make_settings(minimum_slices=4)
    [result] = resolve_folder(tmp_path / "in", tmp_path / "out", settings)
    assert result.state == "failed"
    assert "slices of several patients" in result.reason
    assert "4711" not in result.reason
    assert list((tmp_path / "out").iterdir()) == []
