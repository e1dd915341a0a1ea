"""When a series is complete, and what follows."""

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from mrisr_node.intake import assembly as module
from mrisr_node.intake.assembly import Assembly
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Failure, Job, Series, State, Transition, open_records
from tests.spooling import put


class Clock:
    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        import time

        return time.time() + self.ahead


@pytest.fixture
def settings(make_settings, tmp_path):
    made = make_settings(
        data_dir=tmp_path / "node", minimum_free_bytes=0, quiet_seconds=60.0, minimum_slices=4
    )
    open_records(made.database_path)
    return made


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("assembly"), Acquisition(slices=6, matrix=32))


def _receive(settings, paths):
    for path in paths:
        put(settings, path)


def test_silence_completes_a_series(settings, sample):
    clock = Clock()
    assembly = Assembly(settings, clock=clock)
    _receive(settings, sample.paths)
    clock.ahead = 30
    assert assembly.sweep() == []
    clock.ahead = 61
    [job] = assembly.sweep()
    assert Series.get().state == State.QUEUED
    assert job.voxels == 32 * 32 * 6
    assert assembly.sweep() == []
    assert Job.select().count() == 1


def test_a_clock_that_goes_back_an_hour_holds_nothing_up(settings, sample):
    clock = Clock()
    assembly = Assembly(settings, clock=clock)
    _receive(settings, sample.paths)
    clock.ahead = -3600
    assert assembly.sweep() == []
    clock.ahead = -3600 + 61
    assert len(assembly.sweep()) == 1


def test_the_pacs_count_cuts_the_waiting_short(settings, sample):
    clock = Clock()
    assembly = Assembly(settings, lambda _study, _series: 6, clock)
    _receive(settings, sample.paths[:5])
    clock.ahead = 2
    assert assembly.sweep() == []
    _receive(settings, sample.paths[5:])
    clock.ahead = 4
    assert len(assembly.sweep()) == 1


def test_more_than_the_pacs_knows_is_no_proof_of_completeness(settings, sample):
    clock = Clock()
    assembly = Assembly(settings, lambda _study, _series: 3, clock)
    _receive(settings, sample.paths[:5])
    clock.ahead = 30
    assert assembly.sweep() == []
    clock.ahead = 61
    assert len(assembly.sweep()) == 1


def test_instances_that_only_the_pacs_has_are_waited_for_and_then_named(settings, sample):
    clock = Clock()
    assembly = Assembly(settings, lambda _study, _series: 6, clock)
    _receive(settings, sample.paths[:5])
    clock.ahead = 70
    assert assembly.sweep() == []
    assert Series.get().state == State.RECEIVING
    assert Series.get().expected_instances == 6
    clock.ahead = 350
    assert assembly.sweep() == []
    # Six quiet times, and two sweeps over the PACS.
    clock.ahead = 6 * 60 + 2 * settings.reconcile_seconds + 1
    assert len(assembly.sweep()) == 1
    reasons = [t.reason for t in Transition.select()]
    assert "5 of 6 instances that the PACS knows arrived" in reasons


def test_a_gap_waits_in_spite_of_the_count_and_fails_in_the_end(settings, sample):
    clock = Clock()
    assembly = Assembly(settings, lambda _study, _series: 5, clock)
    _receive(settings, [p for n, p in enumerate(sample.paths) if n != 2])
    clock.ahead = 2
    assert assembly.sweep() == []
    assert Series.get().state == State.RECEIVING
    clock.ahead = 61
    assert assembly.sweep() == []
    series = Series.get()
    assert series.state == State.FAILED
    assert "not evenly spaced" in series.reason


def test_a_late_slice_opens_the_series_again(settings, sample):
    clock = Clock()
    assembly = Assembly(settings, clock=clock)
    _receive(settings, sample.paths[:5])
    clock.ahead = 61
    [first] = assembly.sweep()
    _receive(settings, sample.paths[5:])
    assert Series.get().state == State.RECEIVING
    clock.ahead = 130
    [second] = assembly.sweep()
    assert second.id != first.id
    reasons = [t.reason for t in Transition.select().order_by(Transition.id)]
    assert "a late slice arrived" in reasons


def test_too_few_slices_are_skipped_with_the_reason(settings, sample):
    clock = Clock()
    assembly = Assembly(settings, clock=clock)
    _receive(settings, sample.paths[:3])
    clock.ahead = 61
    assert assembly.sweep() == []
    series = Series.get()
    assert series.state == State.SKIPPED
    assert series.reason == "3 slices; at least 4 make a volume"


def test_one_slice_is_told_as_one(settings, sample):
    clock = Clock()
    assembly = Assembly(settings, lambda _study, _series: 1, clock)
    _receive(settings, sample.paths[:1])
    clock.ahead = 61
    assert assembly.sweep() == []
    reasons = [t.reason for t in Transition.select().order_by(Transition.id)]
    assert reasons[-2:] == [
        "the only instance that the PACS knows is here",
        "the series has one slice only; super-resolution needs a stack of them",
    ]


@pytest.mark.parametrize(
    ("keyword", "value", "several"),
    [
        ("PatientID", "ZP-4711-X", "patients"),
        ("IssuerOfPatientID", "ZP-4711-X", "patients"),
        ("PatientID", "", "patients"),
        ("StudyInstanceUID", "2.25.4711", "studies"),
        ("FrameOfReferenceUID", "2.25.4712", "frames of reference"),
    ],
)
def test_two_senders_that_use_one_series_uid_get_no_result(
    settings, sample, tmp_path, keyword, value, several
):
    """Their slices make a regular stack together, which shows two heads."""
    for number, path in enumerate(sample.paths):
        slice_ = dcmread(path)
        if number % 2:
            setattr(slice_, keyword, value)
        slice_.save_as(tmp_path / path.name)
        put(settings, tmp_path / path.name, sender="MR1" if number % 2 else "MR2")
    clock = Clock()
    clock.ahead = 61
    assert Assembly(settings, clock=clock).sweep() == []
    assert Job.select().count() == 0
    series = Series.get()
    assert series.state == State.FAILED
    assert f"slices of several {several}" in series.reason
    assert value == "" or value not in series.reason


@pytest.mark.parametrize("keywords", [(), ("PatientID",), ("PatientID", "IssuerOfPatientID")])
def test_what_no_slice_says_is_one_patient_all_the_same(settings, sample, tmp_path, keywords):
    for number, path in enumerate(sample.paths):
        slice_ = dcmread(path)
        for keyword in keywords:
            # Empty and not there mean the same (PS3.5 7.4.5, type 2).
            setattr(slice_, keyword, "")
            if number % 2:
                del slice_[keyword]
        slice_.save_as(tmp_path / path.name)
        put(settings, tmp_path / path.name)
    clock = Clock()
    clock.ahead = 61
    assert len(Assembly(settings, clock=clock).sweep()) == 1


@pytest.mark.parametrize("value", [None, ""])
def test_what_no_result_could_be_placed_beside_is_skipped(settings, sample, tmp_path, value):
    for path in sample.paths:
        slice_ = dcmread(path)
        slice_.FrameOfReferenceUID = value
        slice_.save_as(tmp_path / path.name)
        put(settings, tmp_path / path.name)
    clock = Clock()
    clock.ahead = 61
    assert Assembly(settings, clock=clock).sweep() == []
    series = Series.get()
    assert series.state == State.SKIPPED
    assert "name no FrameOfReferenceUID" in series.reason


@pytest.mark.parametrize(
    ("where", "what", "error"),
    [
        (module, "dcmread", OSError(5, "Input/output error")),
        (module, "dcmread", MemoryError()),
        (Dataset, "get", MemoryError()),
    ],
)
def test_a_machine_that_cannot_read_fails_no_series(
    settings, sample, monkeypatch, where, what, error
):
    clock = Clock()
    assembly = Assembly(settings, clock=clock)
    _receive(settings, sample.paths)
    clock.ahead = 61

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, what, fail)
        for _ in range(3):  # tried once, and not again at once
            assert assembly.sweep() == []
    series = Series.get()
    assert series.state == State.COMPLETE
    assert "cannot be read now" in series.reason
    assert [(f.stage, f.kind) for f in Failure.select()] == [("selection", type(error).__name__)]
    clock.ahead += 6
    assert len(assembly.sweep()) == 1
    assert Series.get().state == State.QUEUED


def test_a_file_that_is_gone_fails_its_series(settings, sample):
    clock = Clock()
    _receive(settings, sample.paths)
    next(settings.spool_dir.rglob("*.dcm")).unlink()
    clock.ahead = 61
    assert Assembly(settings, clock=clock).sweep() == []
    assert Series.get().state == State.FAILED
