"""Nobody works: the receiver goes on until the disk is full, and memory does not grow with it."""

import threading
import time

import psutil
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.jobs import pipeline
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.rounds import Rounds
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Instance, Job, Series, State, open_records

SERIES, SLICES, MATRIX = 24, 8, 256
GROWTH = 32 * 1024**2
"""Less than half of what is sent."""


@pytest.fixture
def settings(make_settings):
    made = make_settings(
        minimum_free_bytes=0, quiet_seconds=1.0, storage_commitment="off", receiver_processes=1
    )
    open_records(made.database_path)
    return made


def _send(settings, sample, folder):
    """Send the sample as a series of its own; return what was refused."""
    folder.mkdir(exist_ok=True)
    uid, paths = generate_uid(), []
    for number, path in enumerate(sample.paths):
        dataset = dcmread(path)
        dataset.SeriesInstanceUID = uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        paths.append(folder / f"{number}.dcm")
        dataset.save_as(paths[-1])
    where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
    return send_files(paths, where, lambda _: None)


def _memory(receiver):
    parents = [psutil.Process(pid) for pid in receiver.processes]
    processes = [each for p in parents for each in (p, *p.children(recursive=True))]
    return sum(each.memory_info().rss for each in processes)


def _until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, [(s.state, s.reason) for s in Series.select()]
        time.sleep(0.1)


def _in_state(state):
    return Series.select().where(Series.state == state.value).count()


def test_all_wait_on_disk_and_are_processed_in_the_end(settings, tmp_path, monkeypatch):
    sample = write_sample(tmp_path / "s", Acquisition(slices=SLICES, matrix=MATRIX))
    receiver, stop = Receiver(settings), threading.Event()
    rounds = threading.Thread(target=Rounds(settings).run, args=(stop,))
    receiver.start()
    rounds.start()
    try:
        for _ in range(4):
            assert _send(settings, sample, tmp_path / "next") == []
        before = _memory(receiver)
        for _ in range(SERIES - 4):
            assert _send(settings, sample, tmp_path / "next") == []
        assert _memory(receiver) - before < GROWTH
        _until(lambda: _in_state(State.QUEUED) == SERIES)
        assert Queues(settings).waiting(Queue.CPU) == {job.id for job in Job.select()}
    finally:
        stop.set()
        rounds.join()
        receiver.stop()
    assert Instance.select().count() == SERIES * SLICES

    # Below the watermark nothing more is taken, and what was taken is worked off.
    full = settings.model_copy(update={"minimum_free_bytes": 1 << 60})
    receiver = Receiver(full)
    receiver.start()
    try:
        refused = _send(full, sample, tmp_path / "next")
        assert len(refused) == SLICES
        assert all("status 0xA700" in line for line in refused)
    finally:
        receiver.stop()
    for stage in Stage:
        monkeypatch.setitem(pipeline._STAGES, stage, _STAGES.get(stage, lambda _: None))
    worker = Worker(full)
    for queue in Queue:
        for job in list(Job.select()):
            worker.advance(queue, job.id)
    assert _in_state(State.DONE) == Series.select().count() == SERIES
    assert Job.select().count() == SERIES


def _write(workspace):
    result = {"study_instance_uid": "1", "series_instance_uid": generate_uid(), "instances": 1}
    workspace.note("result", result)


_STAGES = {Stage.WRITE: _write}
