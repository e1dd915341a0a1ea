"""Another process holds the write lock of the records: a while, and for longer than we wait."""

import contextlib
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from peewee import OperationalError
from pynetdicom import build_context
from pynetdicom.sop_class import Verification

from mrisr_node import records
from mrisr_node.intake.assembly import Assembly
from mrisr_node.intake.association import Destination, association
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.sending import send_files
from mrisr_node.jobs import pipeline, work
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.recovery import recover
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import DIED, Failure, Instance, Job, Series, State, open_records
from tests.spooling import put
from tests.web.web_door import served

HERE = Path(__file__).resolve().parent
PATIENCE = 300
"""Milliseconds that the processes of these tests wait for the lock; else it is 20 s."""


@pytest.fixture
def settings(make_settings):
    made = make_settings(
        minimum_free_bytes=0, minimum_slices=4, quiet_seconds=0.01, receiver_processes=1
    )
    open_records(made.database_path)
    records.database.obj.pragma("busy_timeout", PATIENCE, permanent=True)
    return made


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("locked"), Acquisition(slices=6, matrix=32))


@contextlib.contextmanager
def locked(settings):
    """Hold the write lock, as a backup that hangs or a person with a database tool would."""
    other = sqlite3.connect(settings.database_path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextlib.contextmanager
def receiving(settings, patience):
    running = Receiver(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{HERE}:{HERE.parent.parent}")
        patch.setenv("FAULTS", "/nonexistent")
        patch.setenv("FAULTS_PATIENCE", str(patience))
        running.start()
    try:
        # It has opened the records, then.
        with association(_where(settings), [build_context(Verification)], 60.0):
            yield running
    finally:
        running.stop()


def _where(settings):
    return Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")


def _send(settings, paths):
    return send_files(paths, _where(settings), lambda _: None)


def test_senders_wait_for_a_short_while(settings, sample):
    """All of them come in, though from several associations at once."""
    with receiving(settings, 60_000), ThreadPoolExecutor(3) as pool:
        with locked(settings):
            sent = [pool.submit(_send, settings, sample.paths[n::3]) for n in range(3)]
            drafts = settings.spool_dir / "drafts"
            _until(lambda: len(list(drafts.iterdir())) == 3)
            assert not any(one.done() for one in sent)
            assert Instance.select().count() == 0
        assert [one.result() for one in sent] == [[], [], []]
    assert Instance.select().count() == 6


def test_senders_are_refused_after_a_long_one_and_may_come_again(settings, sample):
    with receiving(settings, PATIENCE), ThreadPoolExecutor(3) as pool:
        with locked(settings):
            sent = [pool.submit(_send, settings, sample.paths[n::3]) for n in range(3)]
            refused = [line for one in sent for line in one.result()]
        assert len(refused) == 6
        assert all("status 0xA700" in line for line in refused)
        assert Instance.select().count() == 0
        assert _send(settings, sample.paths) == []
    assert Instance.select().count() == 6
    files = {path.name for path in settings.spool_dir.rglob("*.dcm")}
    assert files == {Path(row.path).name for row in Instance.select()}


def _until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def job(settings, sample):
    for path in sample.paths:
        put(settings, path)
    time.sleep(0.05)
    with locked(settings), pytest.raises(OperationalError):
        Assembly(settings).sweep()  # the rounds log it and look again
    assert Series.get().state == State.RECEIVING
    [queued] = Assembly(settings).sweep()
    return queued


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_job_that_cannot_be_written_down_is_taken_again(settings, job, monkeypatch, moment):
    """At its start, while a stage computes, and when what it found out is to be kept."""
    ran, worker, queues = [], Worker(settings), Queues(settings)
    lock = contextlib.ExitStack()

    def convert(workspace):
        ran.append(Stage.CONVERT)
        if moment != "before" and len(ran) == 1:
            lock.enter_context(locked(settings))
        if moment == "within":
            workspace.progress(0.5)

    for stage in (Stage.BRAIN, Stage.NORMALISE):
        monkeypatch.setitem(pipeline._STAGES, stage, lambda _: None)
    monkeypatch.setitem(pipeline._STAGES, Stage.CONVERT, convert)
    released, release = [], worker._release

    def until_it_can_be_written(job):
        released.append(job)
        if len(released) == 2:
            lock.close()
        release(job)

    monkeypatch.setattr(worker, "_release", until_it_can_be_written)
    monkeypatch.setattr(work, "HEARTBEAT", 0.01)
    with lock:
        if moment == "before":
            lock.enter_context(locked(settings))
        with pytest.raises(OperationalError, match="locked"):
            worker.advance(Queue.CPU, job.id)  # Huey's consumer logs it and goes on
    assert len(released) == (0 if moment == "before" else 2)
    # Nobody died.
    assert Job.get().lease_owner is None
    assert Job.get().attempts == 0
    assert not Failure.select().where(Failure.kind == DIED).exists()
    assert recover(queues) == 1
    worker.advance(Queue.CPU, job.id)
    assert Job.get().stage == Stage.SUPERRESOLVE
    assert Series.get().state == State.PREPARING
    assert Job.get().lease_owner is None
    assert len(ran) == (1 if moment == "before" else 2)


def test_the_front_door_says_so_and_goes_on(settings):
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(served(settings))
        # It has opened the records anew.
        records.database.obj.pragma("busy_timeout", PATIENCE, permanent=True)
        browser, tool = (stack.enter_context(kind()) for kind in (door.browser, door.tool))
        series = Series.create(
            series_instance_uid="1.2.3", study_instance_uid="1.2", state=State.FAILED.value
        )
        with locked(settings):
            # Whoever only reads is not held up.
            assert browser.get("/api/series").json()["total"] == 1
            assert browser.get("/").status_code == 200
            for client in (tool, browser):
                answer = client.post(f"/api/series/{series.id}/retry")
                _is_busy(answer)
            form = {"username": "admin", "password": "wrong"}
            with door.client(Origin=door.url) as stranger:
                # Each attempt is counted, or it is none.
                _is_busy(stranger.post("/sign-in", data=form))
            assert tool.get("/readyz").status_code == 503
        assert tool.post(f"/api/series/{series.id}/retry").status_code < 300
    assert Series.get().state in (State.QUEUED, State.RECEIVING)


def _is_busy(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "busy" in answer.json()["detail"]
