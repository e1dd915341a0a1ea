"""No room at any write: the sender is told, the stage is tried again, and nothing half is whole."""

import contextlib
import hashlib
import resource
import time
from pathlib import Path

import pytest
import stand_ins
from bad_pacs import bad_pacs
from pydicom import dcmread
from pydicom.uid import generate_uid

from mrisr_node.intake.assembly import Assembly
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.jobs import pipeline, work
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.recovery import recover
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Failure, Instance, Job, Rejection, Series, State, open_records
from tests.spooling import put

HERE = Path(__file__).resolve().parent
OUT_OF_RESOURCES = "0xA700"

# Draft opened, draft synced, linked, folders synced (the spool's own only for a new series), row.
STORING = [
    ("write.before", 1),
    ("sync.before", 1),
    ("rename.before", 1),
    ("sync.before", 2),
    ("sync.before", 3),
    ("commit.before", 1),
]
REJECTING = [
    ("write.before", 1),
    ("sync.before", 1),
    ("sync.before", 2),
    ("rename.before", 1),
    ("sync.before", 3),
    ("commit.before", 1),
]


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def settings(make_settings):
    made = make_settings(minimum_free_bytes=0, receiver_processes=1)
    open_records(made.database_path)
    return made


@pytest.fixture(scope="module")
def receiver(settings, faults):
    running = Receiver(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{HERE}:{HERE.parent.parent}")
        patch.setenv("FAULTS", str(faults))
        patch.setenv("FAULTS_DATA", str(settings.data_dir))
        patch.setenv("FAULTS_ROLE", "receiver")
        running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("full"), Acquisition(slices=2, matrix=32))


def _fresh(sample, folder, **changes):
    """Write an instance of a series of its own."""
    dataset = dcmread(sample.paths[0])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    for name, value in changes.items():
        setattr(dataset, name, value)
    path = folder / f"{dataset.SOPInstanceUID[-12:]}.dcm"
    dataset.save_as(path)
    return path


def _refused(settings, path):
    """Send a file; return the status that it got, or None for success."""
    where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
    refused = send_files([path], where, lambda _: None)
    return refused[0].partition("status ")[2][:6] if refused else None


def _files(settings):
    """Return the files of the spool, and check that each is what its row says."""
    rows = {row.path: row.sha256 for row in Instance.select()}
    found = [path for path in settings.spool_dir.rglob("*") if path.is_file()]
    digests = {
        str(path.relative_to(settings.spool_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }
    assert rows == digests
    return found


@pytest.mark.parametrize(("point", "number"), STORING)
def test_an_instance_that_cannot_be_kept_is_refused_and_leaves_nothing(
    settings, receiver, faults, sample, tmp_path, point, number
):
    path, processes = _fresh(sample, tmp_path), receiver.processes
    (faults / "plan-receiver").write_text(f"{point} {number} full-{tmp_path.name}")
    assert _refused(settings, path) == OUT_OF_RESOURCES
    assert (faults / f"full-{tmp_path.name}").exists(), "the disk was not full there"
    before = _files(settings)
    assert _refused(settings, path) is None
    assert len(_files(settings)) == len(before) + 1
    assert receiver.processes == processes


@pytest.mark.parametrize(("point", "number"), REJECTING)
def test_an_object_that_quarantine_has_no_room_for_is_refused_as_such(
    settings, receiver, faults, sample, tmp_path, point, number
):
    path, before = _fresh(sample, tmp_path, Rows=0), Rejection.select().count()
    (faults / "plan-receiver").write_text(f"{point} {number} full-{tmp_path.name}")
    assert _refused(settings, path) == OUT_OF_RESOURCES
    assert (faults / f"full-{tmp_path.name}").exists(), "the disk was not full there"
    assert _refused(settings, path) == "0xC000"
    assert Rejection.select().count() == before + 1
    assert _refused(settings, _fresh(sample, tmp_path)) is None
    _files(settings)


def test_files_and_records_that_can_grow_no_further(settings, receiver, sample, tmp_path):
    """The real thing, as the kernel does it: a file is cut off in the middle, its log included."""
    [process] = receiver.processes
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 1000):
        path = _fresh(sample, tmp_path)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (room, hard))
        try:
            assert [_refused(settings, path) for _ in range(2)] == [OUT_OF_RESOURCES] * 2
        finally:
            resource.prlimit(process, resource.RLIMIT_FSIZE, (hard, hard))
        before = _files(settings)
        assert _refused(settings, path) is None
        assert len(_files(settings)) == len(before) + 1
    assert receiver.processes == [process]


@contextlib.contextmanager
def _no_room(room=0):
    """Let no file of this process grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITING = [Stage.CONVERT, Stage.BRAIN, Stage.NORMALISE, Stage.SUPERRESOLVE, Stage.WRITE]


@pytest.fixture
def queued(make_settings, sample, tmp_path):
    """A queued job of a small series, and the settings of its node."""
    made = make_settings(
        minimum_free_bytes=0, minimum_slices=4, storage_commitment="off", maximum_attempts=2,
        quiet_seconds=0.01,
    )  # fmt: skip
    open_records(made.database_path)
    for path in write_sample(tmp_path / "s", Acquisition(slices=6, matrix=32)).paths:
        put(made, path)
    time.sleep(0.05)
    [job] = Assembly(made).sweep()
    return made, job


def _work(settings, job, *, until):
    """Work on a job, whenever it is due, until a condition holds."""
    worker, deadline = Worker(settings), time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline, Series.get().reason
        for queue in Queue:
            worker.advance(queue, job.id)
        Job.update(not_before=0).execute()


def _state():
    return Series.get().state


def test_every_stage_is_tried_again_and_the_result_is_whole(queued, monkeypatch):
    settings, job = queued
    full = []

    def crowded(stage, work):
        def run(workspace):
            # A file that was cut off is never one of those that the next stage looks for.
            if stage in full:
                return work(workspace)
            full.append(stage)
            there = set(workspace.folder.glob("[!.]*"))
            try:
                with _no_room(100):
                    work(workspace)
            finally:
                assert set(workspace.folder.glob("[!.]*")) == there
            return None

        return run

    for stage in WRITING:
        work = stand_ins.STAGES.get(stage, pipeline._STAGES[stage])
        monkeypatch.setitem(pipeline._STAGES, stage, crowded(stage, work))
    with bad_pacs(settings.orthanc_http_port) as pacs:
        _work(settings, job, until=lambda: _state() in (State.DONE, State.FAILED))
        assert (_state(), Series.get().reason) == (State.DONE, "the result is in the PACS")
        # Six slices of the stand-in's three each, and what belongs to them.
        assert len(pacs.kept) == Job.get_by_id(job.id).result_instances > 18
    assert full == WRITING
    assert [failure.stage for failure in Failure.select()] == [s.value for s in WRITING]
    assert not (settings.work_dir / str(job.id)).exists()


def test_a_stage_that_never_finds_room_fails_its_series_with_the_reason(queued, monkeypatch):
    settings, job = queued

    def no_room(workspace):
        with _no_room(10):
            workspace.note("source", {"words": "x" * 100})

    monkeypatch.setitem(pipeline._STAGES, Stage.CONVERT, no_room)
    _work(settings, job, until=lambda: _state() == State.FAILED)
    assert "OSError: [Errno 27] File too large (tried 2 times)" in Series.get().reason


def test_records_without_room_keep_the_job_for_later(queued, monkeypatch):
    settings, job = queued
    monkeypatch.setitem(pipeline._STAGES, Stage.CONVERT, lambda _: None)
    worker = Worker(settings)
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    released, release = [], worker._release

    def until_there_is_room(job):
        released.append(job)
        if len(released) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, room)
        release(job)

    monkeypatch.setattr(worker, "_release", until_there_is_room)
    monkeypatch.setattr(work, "HEARTBEAT", 0.01)
    with _no_room(), contextlib.suppress(Exception):  # Huey's consumer logs it and goes on
        worker.advance(Queue.CPU, job.id)
    assert _state() == State.QUEUED

    def full(_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    monkeypatch.setitem(pipeline._STAGES, Stage.CONVERT, full)
    with _no_room(2**30), contextlib.suppress(Exception):
        worker.advance(Queue.CPU, job.id)
    assert len(released) == 2
    assert Job.get().lease_owner is None  # given back: nobody died
    assert recover(Queues(settings)) == 1
    monkeypatch.setitem(pipeline._STAGES, Stage.CONVERT, lambda _: None)
    monkeypatch.setitem(pipeline._STAGES, Stage.BRAIN, lambda _: None)
    monkeypatch.setitem(pipeline._STAGES, Stage.NORMALISE, lambda _: None)
    worker.advance(Queue.CPU, job.id)
    assert Job.get().stage == Stage.SUPERRESOLVE
