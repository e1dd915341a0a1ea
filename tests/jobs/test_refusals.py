"""A refusal is a result too: the study in the PACS says why nothing was made of a series."""

from datetime import UTC, datetime

import pytest
from dicom_checks import dciodvfy
from dicom_standard import dicom_validator
from pydicom import dcmread
from pydicom.uid import generate_uid

from mrisr_node.identity import is_own_result
from mrisr_node.jobs.refusals import Refusals
from mrisr_node.jobs.stages import Stage
from mrisr_node.jobs.workspace import read_headers
from mrisr_node.node.sample import Acquisition, Study, write_sample
from mrisr_node.records import Job, RefusalReport, Series, State, open_records
from mrisr_node.results.delivery import Pacs
from mrisr_node.results.refusal import write_refusal
from tests import spooling

REASON = "convert: the slices are not evenly spaced"


@pytest.fixture
def settings(make_settings, orthanc):
    there = orthanc.settings
    made = make_settings(
        report_refusals=True,
        orthanc_http_port=there.orthanc_http_port,
        orthanc_password=there.pacs_password(),
        pacs_port=there.pacs_port,
    )
    open_records(made.database_path)
    return made


def _failed(settings, folder, stage=Stage.CONVERT):
    """A received series that failed in a stage."""
    study = Study(patient_id=generate_uid()[-12:])
    sample = write_sample(folder, Acquisition(slices=8, matrix=32), study=study)
    for path in sample.paths:
        spooling.put(settings, path)
    series = Series.get(Series.series_instance_uid == sample.series_uid)
    for state in (State.COMPLETE, State.QUEUED, State.PREPARING):
        series.move(state)
    Job.create(series=series, recipe="native", stage=stage.value)
    series.move(State.FAILED, REASON)
    return series


def _reports(settings, series):
    """The reports of ours that the PACS shows in the study."""
    pacs = Pacs(settings)
    with pacs._client() as client:
        found = client.search_for_series(
            series.study_instance_uid, search_filters={"Modality": "SR"}
        )
    uids = [one["0020000E"]["Value"][0] for one in found]
    return [d for uid in uids for d in pacs.retrieve(series.study_instance_uid, uid)]


def test_the_study_gets_one_report_with_the_reason(settings, orthanc, tmp_path):
    orthanc.wait_ready()
    series = _failed(settings, tmp_path)
    refusals = Refusals(settings)
    assert refusals.sweep() == 1
    assert refusals.sweep() == 0
    [report] = _reports(settings, series)
    # Without the name of the stage.
    words = REASON.removeprefix("convert: ")
    assert report.ContentSequence[0].TextValue == f"No super-resolution made: {words}"
    assert is_own_result(report)
    [evidence] = report.CurrentRequestedProcedureEvidenceSequence
    assert evidence.ReferencedSeriesSequence[0].SeriesInstanceUID == series.series_instance_uid
    # Whoever tries again and fails again is told again, unless it is the same.
    for reason, count in ((REASON, 1), ("brain: no brain was found", 2)):
        series.move(State.QUEUED)
        series.move(State.PREPARING)
        series.move(State.FAILED, reason)
        refusals.sweep()
        assert refusals.sweep() == 0
        assert len(_reports(settings, series)) == count


def test_a_pacs_that_is_down_is_asked_again_later(settings, orthanc, tmp_path):
    series = _failed(settings, tmp_path)
    down = settings.model_copy(update={"orthanc_http_port": 9, "delivery_first_delay": 1000.0})
    refusals = Refusals(down)
    assert refusals.sweep() == 0
    assert not RefusalReport.select().where(RefusalReport.series == series).exists()
    refusals._settings = settings
    assert refusals.sweep() == 0  # not yet its turn
    refusals._tries.clear()
    orthanc.wait_ready()
    assert refusals.sweep() == 1


def test_a_result_that_was_not_taken_is_no_refusal(settings, tmp_path):
    _failed(settings, tmp_path, Stage.STORE)
    assert Refusals(settings).sweep() == 0


def test_slices_of_two_patients_get_a_report_in_neither_study(settings, orthanc, tmp_path):
    study = Study(patient_id=generate_uid()[-12:])
    sample = write_sample(tmp_path, Acquisition(slices=8, matrix=32), study=study)
    other = dcmread(sample.paths[3])
    other.PatientID = "somebody else"
    other.save_as(sample.paths[3])
    for path in sample.paths:
        spooling.put(settings, path)
    series = Series.get(Series.series_instance_uid == sample.series_uid)
    for state in (State.COMPLETE, State.FAILED):
        series.move(state, "the series holds slices of several patients")
    orthanc.wait_ready()
    refusals = Refusals(settings)
    assert (refusals.sweep(), refusals.sweep()) == (0, 0)
    assert refusals._tries == {}
    assert _reports(settings, series) == []


def test_the_report_is_conformant(tmp_path):
    sample = write_sample(tmp_path / "s", Acquisition(slices=8, matrix=32))
    headers = read_headers(sample.paths)
    path = tmp_path / "refusal.dcm"
    write_refusal(path, headers, REASON, datetime(2026, 1, 2, tzinfo=UTC))
    assert dciodvfy(path) == []
    assert dicom_validator(path) == []
    report = dcmread(path)
    assert report.PatientName == headers[0].PatientName
    # The last series of the last stack that a series may be split into has + 40000.
    assert report.SeriesNumber == headers[0].SeriesNumber + 50_000
