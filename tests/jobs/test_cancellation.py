"""Jobs that nobody wants any more, in every place where one can be."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mrisr_node import records
from mrisr_node.jobs import pipeline
from mrisr_node.jobs.cancellation import CannotCancel, cancel
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.recovery import recover, retry
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.records import Failure, Job, Series, StageRun, State, Transition, open_records


@pytest.fixture
def settings(make_settings):
    made = make_settings(minimum_free_bytes=0)
    open_records(made.database_path)
    return made


def _series(job):
    return Series.get_by_id(job.series_id)


def _waiting(job):
    end = time.monotonic() + 60
    while not StageRun.select().where(StageRun.job == job).exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_job_that_waits_is_over_at_once(settings, job):
    cancel(job.id, "anna")
    series = _series(job)
    assert (series.state, series.reason) == (State.CANCELLED, "cancelled by anna")
    assert Job.get_by_id(job.id).finished_at is not None
    assert recover(Queues(settings)) == 0
    Worker(settings).advance(Queue.CPU, job.id)  # a message that was on its way
    assert not StageRun.select().exists()
    with pytest.raises(CannotCancel, match="not under way"):
        cancel(job.id, "anna")


def test_a_stage_that_tells_how_far_it_is_finds_out_by_itself(settings, job, monkeypatch):
    def work(workspace):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            workspace.progress(0.5)
            time.sleep(0.05)

    def cancelling():
        with records.connection():
            _waiting(job)
            cancel(job.id, "anna")

    monkeypatch.setitem(pipeline._STAGES, Stage.CONVERT, work)
    thread = threading.Thread(target=cancelling)
    thread.start()
    Worker(settings).advance(Queue.CPU, job.id)
    thread.join()
    after = Job.get_by_id(job.id)
    assert (after.lease_owner, after.attempts) == (None, 0)
    assert after.finished_at is not None
    assert _series(job).state == State.CANCELLED
    assert not Failure.select().exists()
    retry(job.series_id, "tried again by bert")
    assert (_series(job).state, Job.get().finished_at) == (State.QUEUED, None)
    assert recover(Queues(settings)) == 1
    said = [step.reason for step in Transition.select().order_by(Transition.id)]
    assert said[-2:] == ["cancelled by anna", "tried again by bert"]


def test_a_stage_that_tells_nothing_is_ended_with_its_worker(settings, job):
    program = Path(__file__).with_name("hanging_worker.py")
    worker = subprocess.Popen([sys.executable, program], env=settings.environment())
    try:
        Queues(settings).send(Queue.CPU, job.id)
        _waiting(job)
        cancel(job.id, "anna")
        assert worker.wait(60) == -signal.SIGKILL
    finally:
        worker.kill()
        worker.wait()
    after = Job.get_by_id(job.id)
    assert (after.lease_owner, after.attempts) == (None, 0)
    assert after.finished_at is not None
    assert _series(job).state == State.CANCELLED
    assert not Failure.select().exists()
    assert recover(Queues(settings)) == 0


def test_what_is_being_stored_is_stored_whole(settings, job, monkeypatch):
    refused = []

    def store(_workspace):
        try:
            cancel(job.id, "anna")
        except CannotCancel as error:
            refused.append(str(error))

    for stage in (Stage.STORE, Stage.CONFIRM, Stage.COMMIT):
        monkeypatch.setitem(pipeline._STAGES, stage, store)
    for state in (State.PREPARING, State.RESOLVING, State.DELIVERING):
        _series(job).move(state)
    Job.update(stage=Stage.STORE.value).execute()
    Worker(settings).advance(Queue.DELIVERY, job.id)
    assert len(refused) == 3
    assert "stored whole" in refused[0]
    assert _series(job).state == State.DONE


def test_what_waits_to_be_stored_can_be_cancelled(settings, job):
    for state in (State.PREPARING, State.RESOLVING, State.DELIVERING):
        _series(job).move(state)
    Job.update(stage=Stage.STORE.value).execute()
    cancel(job.id, "anna")
    Worker(settings).advance(Queue.DELIVERY, job.id)
    assert not StageRun.select().exists()


def test_only_the_newest_job_can_be_cancelled(settings, job):
    Job.create(series=job.series_id, recipe="native", voxels=1000)
    with pytest.raises(CannotCancel, match="not under way"):
        cancel(job.id, "anna")
    assert _series(job).state == State.QUEUED
