"""Taking, failing, waiting, retrying: jobs against the records, delivery against a real PACS."""

import errno
import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from origins import origin_of
from peewee import OperationalError as PeeweeError
from pydicom import dcmread

from mrisr_node.choices import Delivery
from mrisr_node.durable import is_disk_full
from mrisr_node.errors import DeliveryError, NotYet, SeriesError
from mrisr_node.intake.assembly import Assembly
from mrisr_node.jobs import pipeline
from mrisr_node.jobs.overview import find
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.recovery import recover, retry
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Failure, Job, Series, StageRun, State, StateError, open_records
from mrisr_node.results.classic_mr import write_classic
from mrisr_node.results.delivery import Pacs
from mrisr_node.results.mr_content import thin_slices
from mrisr_node.volumes.conversion import convert


@pytest.fixture
def settings(make_settings):
    made = make_settings(
        minimum_free_bytes=0, maximum_attempts=2, delivery_first_delay=0.1,
        storage_commitment="off",
    )  # fmt: skip
    open_records(made.database_path)
    return made


def _series(job):
    return Series.get_by_id(job.series_id)


def _only(monkeypatch, stage, work):
    monkeypatch.setitem(pipeline._STAGES, stage, work)


def test_a_job_is_taken_by_one_worker_only(settings, job):
    first, second = Worker(settings), Worker(settings)
    assert first._take(Queue.CPU, job.id) is not None
    assert second._take(Queue.CPU, job.id) is None
    assert first._take(Queue.GPU, job.id) is None


def test_a_series_error_ends_the_job_with_its_reason(settings, job, monkeypatch):
    def refuse(_):
        raise SeriesError("the slices are of cheese")

    _only(monkeypatch, Stage.CONVERT, refuse)
    Worker(settings).advance(Queue.CPU, job.id)
    series = _series(job)
    assert (series.state, series.reason) == (State.FAILED, "convert: the slices are of cheese")
    assert Job.get_by_id(job.id).lease_owner is None


def test_an_unexpected_error_is_tried_again_and_then_ends_visibly(settings, job, monkeypatch):
    def stumble(_):
        raise RuntimeError("out of tea")

    _only(monkeypatch, Stage.CONVERT, stumble)
    worker = Worker(settings)
    for _ in range(2):
        assert _series(job).state != State.FAILED
        worker.advance(Queue.CPU, job.id)
        Job.update(not_before=0).execute()
    assert "RuntimeError: out of tea (tried 2 times)" in _series(job).reason


def test_why_a_stage_had_to_wait_is_told_until_it_begins_again(settings, job, monkeypatch):
    told = []

    def stumble_once(_):
        told.append(_series(job).reason)
        if len(told) == 1:
            raise RuntimeError("out of tea")
        raise SeriesError("the slices are of cheese")

    _only(monkeypatch, Stage.CONVERT, stumble_once)
    Worker(settings).advance(Queue.CPU, job.id)
    assert "convert: RuntimeError: out of tea; next try in" in _series(job).reason
    assert Job.get().lease_owner is None
    Job.update(not_before=0).execute()
    Worker(settings).advance(Queue.CPU, job.id)
    assert told == ["", ""]


def test_the_promise_of_the_pacs_is_one_run_from_when_it_was_asked_on(settings, job, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    answers = [NotYet("no answer", 5.0), NotYet("no answer", 300.0)]

    def commit(_):
        if answers:
            raise answers.pop(0)

    for stage in (Stage.STORE, Stage.CONFIRM):
        _only(monkeypatch, stage, lambda _: None)
    _only(monkeypatch, Stage.COMMIT, commit)
    Job.update(stage=Stage.STORE.value).execute()
    for state in (State.PREPARING, State.RESOLVING, State.DELIVERING):
        _series(job).move(state)
    waits = []
    for wait in (5, 300, 0):
        Worker(settings).advance(Queue.DELIVERY, job.id)
        waits.append(find(job.series_id).next_try_at)
        now += wait
    assert waits == [pytest.approx(now - 300), pytest.approx(now), None]
    assert _series(job).state == State.DONE
    [run] = StageRun.select().where(StageRun.stage == Stage.COMMIT.value)
    assert (run.finished, run.seconds) == (True, pytest.approx(305))
    assert StageRun.select().count() == 3


def test_a_full_disk_is_waited_for_as_patiently_as_a_pacs(settings, job, monkeypatch):
    """More often than a stage is tried: a minute without room must not fail what is under way."""
    chosen = settings.model_copy(update={"delivery_attempts": 5, "delivery_first_delay": 1000.0})

    def write(_):
        Path("/dev/full").write_text("x")

    _only(monkeypatch, Stage.CONVERT, write)
    worker = Worker(chosen, lambda: 0.0)

    def fail(times):
        reasons = []
        for _ in range(times):
            worker.advance(Queue.CPU, job.id)
            reasons.append(_series(job).reason)
            assert Job.get().attempts == 0
            Job.update(not_before=0).execute()
        return reasons

    full = "convert: OSError: [Errno 28] No space left on device"
    waits = [f"{full}; next try in {delay} s" for delay in (1000, 2000, 3600, 3600)]
    assert fail(5) == [*waits, f"{full} (tried 5 times)"]
    assert _series(job).state == State.FAILED
    assert {failure.kind for failure in Failure.select()} == {"DiskFull"}
    # Once it is tried again, it is as patient again.
    retry(job.series_id)
    assert fail(1) == waits[:1]
    _only(monkeypatch, Stage.CONVERT, lambda _: None)
    _only(monkeypatch, Stage.BRAIN, lambda _: None)
    _only(monkeypatch, Stage.NORMALISE, lambda _: None)
    worker.advance(Queue.CPU, job.id)
    assert Job.get().stage == Stage.SUPERRESOLVE


def test_a_full_disk_is_known_by_what_was_raised(tmp_path):
    with closing(sqlite3.connect(tmp_path / "small.sqlite")) as small:
        small.execute("PRAGMA max_page_count = 2")
        small.execute("CREATE TABLE a (b)")
        with pytest.raises(sqlite3.OperationalError, match="disk is full") as full:
            small.execute("INSERT INTO a VALUES (zeroblob(100000))")
    assert is_disk_full(full.value)
    with pytest.raises(PeeweeError) as wrapped:
        raise PeeweeError("no") from full.value
    assert is_disk_full(wrapped.value)
    assert is_disk_full(OSError(errno.EDQUOT, "quota"))
    assert not is_disk_full(OSError(errno.ENOENT, "gone"))


def test_a_stage_that_kills_its_worker_again_and_again_is_given_up(settings, job):
    for _ in range(2):
        # What a killed worker leaves: the lease of a process that is gone.
        Job.update(lease_owner=f"{_host()}:999999:dead", lease_until=time.time() + 60).execute()
        assert recover(Queues(settings)) <= 1
    Worker(settings).advance(Queue.CPU, job.id)
    assert "died 2 times" in _series(job).reason


def test_a_stage_that_hangs_ends_with_its_worker_and_at_last_visibly(settings, job):
    hanging = settings.model_copy(update={"stage_hours": 1 / 3600})
    program = Path(__file__).with_name("hanging_worker.py")
    for _ in range(settings.maximum_attempts):
        recover(Queues(settings))
        run = subprocess.run([sys.executable, program], env=hanging.environment(), check=False)
        assert run.returncode == -signal.SIGKILL
        assert _series(job).state == State.PREPARING
    recover(Queues(settings))
    Worker(settings).advance(Queue.CPU, job.id)
    assert _series(job).state == State.FAILED
    assert _series(job).reason.startswith(
        "convert: died 2 times (killed, out of memory, or hanging"
    )


def _host():
    import socket

    return socket.gethostname()


def test_recovery_wakes_what_nobody_holds_once(settings, job):
    queues = Queues(settings)
    assert recover(queues) == 1
    assert queues.waiting(Queue.CPU) == {job.id}
    assert recover(queues) == 0
    Job.update(lease_owner="elsewhere:1:x", lease_until=time.time() + 60).execute()
    assert recover(queues) == 0


def test_a_failed_series_can_be_tried_again_and_others_cannot(settings, job):
    with pytest.raises(StateError):
        retry(job.series_id)
    _series(job).move(State.FAILED, "no luck")
    Job.update(attempts=2).execute()
    retry(job.series_id)
    assert _series(job).state == State.QUEUED
    assert Job.select().count() == 1
    assert Worker(settings)._take(Queue.CPU, job.id).attempts == 0


@pytest.mark.parametrize(
    ("queue", "stage"), [(Queue.GPU, Stage.SUPERRESOLVE), (Queue.DELIVERY, Stage.STORE)]
)
def test_a_series_that_is_tried_again_goes_on_where_it_failed(
    settings, job, monkeypatch, queue, stage
):
    ran = []
    _only(monkeypatch, stage, lambda workspace: ran.append(workspace.folder.name))
    _series(job).move(State.FAILED, "no luck")
    Job.update(stage=stage.value).execute()
    retry(job.series_id)
    Worker(settings).advance(queue, job.id)
    assert ran == [str(job.id)]


def test_a_series_that_never_arrived_can_be_tried_again(settings):
    series = Series.create(
        series_instance_uid="1.9", study_instance_uid="1.2", last_instance_at=time.time() - 9999
    )
    series.move(State.COMPLETE)
    series.move(State.FAILED, "nothing arrived")
    retry(series.id)
    assert Series.get_by_id(series.id).state == State.RECEIVING
    assert Assembly(settings).sweep() == []
    Series.update(last_instance_at=0).execute()
    Assembly(settings).sweep()
    again = Series.get_by_id(series.id)
    assert (again.state, again.reason[:31]) == (State.FAILED, "nothing of it has arrived; the ")


def test_a_late_slice_supersedes_the_job_that_runs(settings, job, monkeypatch):
    _only(monkeypatch, Stage.CONVERT, lambda _: _series(job).move(State.RECEIVING, "late slice"))
    Worker(settings).advance(Queue.CPU, job.id)
    left = Job.get_by_id(job.id)
    assert left.finished_at is not None
    assert left.lease_owner is None
    assert _series(job).state == State.RECEIVING
    assert not StageRun.select().where(StageRun.finished).exists()


def test_a_late_slice_ends_the_stage_that_runs(settings, job, monkeypatch):
    went_on = []

    def long_stage(workspace):
        workspace.progress(0.1)
        _series(job).move(State.RECEIVING, "late slice")
        workspace.progress._written -= 10
        workspace.progress(0.2)
        went_on.append(True)

    _only(monkeypatch, Stage.CONVERT, long_stage)
    Worker(settings).advance(Queue.CPU, job.id)
    assert not went_on
    assert Job.get_by_id(job.id).finished_at is not None
    assert not Failure.select().exists()


def test_a_worker_that_lost_its_lease_records_nothing(settings, job, monkeypatch):
    def slow(_):
        Job.update(lease_owner="elsewhere:1:x", lease_until=time.time() + 60).execute()

    _only(monkeypatch, Stage.CONVERT, slow)
    Worker(settings).advance(Queue.CPU, job.id)
    assert Job.get_by_id(job.id).lease_owner == "elsewhere:1:x"
    assert Job.get_by_id(job.id).finished_at is None
    assert not StageRun.select().where(StageRun.finished).exists()


def test_a_result_stays_in_view_when_a_later_job_fails(settings, job):
    Job.update(result_series_uid="2.25.7", delivered_at=1.0).execute()
    Job.create(series=job.series_id, recipe="native", voxels=1)
    _series(job).move(State.FAILED, "no luck")
    assert find(job.series_id).result_series_uid == "2.25.7"


def test_a_pacs_that_takes_everything_and_shows_nothing_is_given_up(settings, job, monkeypatch):
    def not_shown(_):
        raise DeliveryError("the PACS shows 0 of 9 instances that it accepted")

    stored = []
    _only(monkeypatch, Stage.STORE, stored.append)
    _only(monkeypatch, Stage.CONFIRM, not_shown)
    Job.update(stage=Stage.STORE.value).execute()
    for state in (State.PREPARING, State.RESOLVING, State.DELIVERING):
        _series(job).move(state)
    worker = Worker(settings.model_copy(update={"delivery_attempts": 3}), jitter=lambda: 0.0)
    delays = []
    while _series(job).state == State.DELIVERING:
        worker.advance(Queue.DELIVERY, job.id)
        delays.append(round(Job.get_by_id(job.id).not_before - time.time(), 1))
        Job.update(not_before=0).execute()
    assert len(stored) == 3
    assert "shows 0 of 9" in _series(job).reason
    assert "tried 3 times" in _series(job).reason
    assert delays[1] > delays[0]


@pytest.fixture
def written(settings, job, tmp_path):
    """A job whose result is written and not yet delivered."""
    sample = write_sample(tmp_path, Acquisition(slices=8, matrix=32))
    conversion = convert(sample.paths)
    folder = settings.work_dir / str(job.id) / "result"
    folder.mkdir(parents=True)
    origin = origin_of(map(dcmread, sample.paths), conversion.acquisition)
    result = write_classic(folder, origin, thin_slices(origin, conversion.volume))
    (folder.parent / "result.json").write_text(
        json.dumps(
            {
                "study_instance_uid": result.study_instance_uid,
                "series_instance_uid": result.series_instance_uid,
                "instances": len(result.paths),
            }
        )
    )
    Job.update(stage=Stage.STORE.value).execute()
    for state in (State.PREPARING, State.RESOLVING, State.DELIVERING):
        _series(job).move(state)
    return result


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("delivery", list(Delivery))
def test_delivery_waits_for_the_pacs_and_then_completes(settings, job, written, orthanc, delivery):
    # The PACS is down: nothing listens on these ports.
    Worker(settings.model_copy(update={"delivery": delivery})).advance(Queue.DELIVERY, job.id)
    waiting = Job.get_by_id(job.id)
    assert waiting.not_before > time.time() - 1
    assert _series(job).state == State.DELIVERING
    assert "next try" in _series(job).reason

    orthanc.wait_ready()
    there = orthanc.settings
    reachable = settings.model_copy(
        update={
            "delivery": delivery,
            "orthanc_http_port": there.orthanc_http_port,
            "orthanc_password": there.pacs_password(),
            "pacs_port": there.pacs_port,
        }
    )
    Job.update(not_before=0).execute()
    Worker(reachable).advance(Queue.DELIVERY, job.id)
    assert _series(job).state == State.DONE
    count = Pacs(reachable).count(written.study_instance_uid, written.series_instance_uid)
    assert count == len(written.paths)


def test_a_wrong_password_is_named_and_given_up_after_the_tries(settings, job, written, orthanc):
    orthanc.wait_ready()
    wrong = settings.model_copy(
        update={
            "orthanc_http_port": orthanc.settings.orthanc_http_port,
            "orthanc_password": "wrong",
            "delivery_attempts": 2,
        }
    )
    for _ in range(2):
        Job.update(not_before=0).execute()
        Worker(wrong).advance(Queue.DELIVERY, job.id)
    series = _series(job)
    assert series.state == State.FAILED
    assert "HTTP 401" in series.reason
    assert "tried 2 times" in series.reason
