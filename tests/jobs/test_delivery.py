"""A PACS on its worst days: down, refusing, slow, lying, and well again."""

import json
import os
import signal
import socket

import pytest
from bad_pacs import bad_pacs
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt
from typer.testing import CliRunner

from mrisr_node.choices import Delivery
from mrisr_node.cli import app
from mrisr_node.delays import LONGEST_DELAY, is_due, retry_delay
from mrisr_node.errors import DeliveryError
from mrisr_node.intake.commitment import reference_of
from mrisr_node.jobs import progress, work
from mrisr_node.jobs.dead_letters import NoDeadLetter, dead_letters, send_again, send_all_again
from mrisr_node.jobs.overview import find
from mrisr_node.jobs.recovery import retry
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.records import Job, Series, State, open_records
from mrisr_node.results.delivery import Pacs

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def settings(make_settings):
    made = make_settings(
        minimum_free_bytes=0, delivery_attempts=3, delivery_first_delay=1000.0,
        storage_commitment="off",
    )  # fmt: skip
    open_records(made.database_path)
    return made


def _series(job):
    return Series.get_by_id(job.series_id)


def _files(settings, job):
    return sorted((settings.work_dir / str(job.id) / "result").glob("*.dcm"))


def _command(settings, *arguments):
    environment = {"MRISR_DATA_DIR": str(settings.data_dir)}
    return CliRunner().invoke(app, ["send-again", *map(str, arguments)], env=environment)


def _uids(settings, job):
    return {reference_of(path)[1] for path in _files(settings, job)}


def test_delays_grow_to_an_hour_and_differ_by_chance():
    assert [retry_delay(n, 5.0, lambda: 0.0) for n in (1, 2, 3)] == [5, 10, 20]
    assert retry_delay(2, 5.0, lambda: 0.5) == 7.5
    assert retry_delay(10_000, 5.0, lambda: 0.0) == LONGEST_DELAY
    assert len({retry_delay(3, 5.0) for _ in range(20)}) > 1
    # A clock that went back by more than the longest delay does not hold anything up.
    assert [is_due(at, 1e9) for at in (0, 1e9 - 1, 1e9 + 60, 1e9 + 3601)] == [1, 1, 0, 1]


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        (500, "HTTP 500"),
        (503, "HTTP 503"),
        (404, "HTTP 404"),
        ("half", "12 instances refused"),
        ("liar", "the PACS shows 0 of 30"),
        ("forgetful", "the PACS shows 15 of 30"),
        ("hangs up", "ConnectionError"),
        ("nonsense", "STOW-RS failed"),
    ],
)
def test_what_the_pacs_does_not_take_is_kept_and_sent_again(
    settings, pacs, deliverable, deliver, mood, words
):
    job = deliverable(settings)
    sent = _uids(settings, job)
    pacs.mood = mood
    delays = deliver(settings, job)
    assert delays == [1000, 2000]
    series = _series(job)
    assert series.state == State.FAILED
    assert words in series.reason
    assert "tried 3 times" in series.reason
    assert series.reason.endswith("The result is kept and can be sent again")
    assert pacs.requests.count("POST") in (3, 6)
    assert _uids(settings, job) == sent
    assert dead_letters() == [series.id]
    assert find(series.id).dead_letter

    pacs.mood = "good"
    send_again(settings, series.id)
    assert not find(series.id).dead_letter
    assert Job.get_by_id(job.id).stage == Stage.STORE
    assert deliver(settings, job) == []
    assert (_series(job).state, _series(job).reason) == (State.DONE, "the result is in the PACS")
    assert pacs.kept.keys() == sent
    assert Job.get_by_id(job.id).delivered_at is not None
    # Confirmed, and only now gone.
    assert _files(settings, job) == []


def test_a_pacs_that_is_down_and_comes_back_gets_everything_once(settings, deliverable, deliver):
    job = deliverable(settings)
    sent = _uids(settings, job)
    Worker(settings).advance(Queue.DELIVERY, job.id)
    assert _series(job).state == State.DELIVERING
    assert "STOW-RS failed: ConnectionError; next try in" in _series(job).reason
    # Not its turn: not tried, however often it is woken up.
    for _ in range(5):
        Worker(settings).advance(Queue.DELIVERY, job.id)
    assert Job.get_by_id(job.id).attempts == 1
    Job.update(not_before=0).execute()
    with bad_pacs(settings.orthanc_http_port) as pacs:
        deliver(settings, job)
        assert pacs.kept.keys() == sent
    assert _series(job).state == State.DONE


@pytest.mark.parametrize("mood", ["silent", "drip"])
def test_a_pacs_that_takes_for_ever_is_left(settings, pacs, deliverable, mood):
    job = deliverable(settings)
    pacs.mood = mood
    short = settings.model_copy(update={"delivery_timeout": 0.5})
    with pytest.raises(DeliveryError, match="too long"):
        Pacs(short).store(_files(settings, job), lambda _: None)
    with pytest.raises(DeliveryError, match="too long"):
        Pacs(short).instances("1.2", "1.3")


def test_a_pacs_may_show_instances_in_pages_but_not_others(settings, pacs, deliverable):
    job = deliverable(settings)
    sent = _uids(settings, job)
    pacs.kept, pacs.mood = dict.fromkeys(sent, "1.3"), "pages"
    Pacs(settings).confirm("1.2", "1.3", sent)
    assert Pacs(settings).instances("1.2", "1.3") == sent
    pacs.mood = "good"
    pacs.kept["1.2.3.4"] = "1.3"
    with pytest.raises(DeliveryError, match="1 instance in the result's series beside its own"):
        Pacs(settings).confirm("1.2", "1.3", sent)
    # As many as were sent, and not the same.
    del pacs.kept[min(sent)]
    with pytest.raises(DeliveryError, match="29 of 30"):
        Pacs(settings).confirm("1.2", "1.3", sent)


def test_all_dead_letters_are_sent_again_at_once(settings, pacs, deliverable, deliver):
    jobs = [deliverable(settings, f"1.2.{n}") for n in range(3)]
    pacs.mood = 503
    for job in jobs:
        deliver(settings, job)
    assert len(dead_letters()) == 3
    one = _command(settings, jobs[0].series_id)
    assert (one.exit_code, one.output) == (0, "1 result will be sent again\n")
    again = _command(settings, jobs[0].series_id)
    assert (again.exit_code, "has no result that" in again.output) == (1, True)
    assert _command(settings).exit_code == 2
    assert _command(settings, "--all").output == "2 results will be sent again\n"
    assert send_all_again(settings) == []
    assert dead_letters() == []
    assert {series.state for series in Series.select()} == {State.QUEUED}
    pacs.mood = "good"
    for job in jobs:
        deliver(settings, job)
        assert _series(job).state == State.DONE


def test_a_result_whose_files_are_gone_is_computed_anew(settings, pacs, deliverable, deliver):
    job = deliverable(settings)
    pacs.mood = 503
    deliver(settings, job)
    _files(settings, job)[0].unlink()
    with pytest.raises(NoDeadLetter, match="no longer there"):
        send_again(settings, job.series_id)
    assert dead_letters() == []
    retry(job.series_id)
    assert Job.get_by_id(job.id).stage == ""


def test_what_is_being_stored_when_a_late_slice_comes_is_stored_whole(
    settings, pacs, deliverable, monkeypatch
):
    job = deliverable(settings)
    store = pacs._store

    def late(body):
        if not pacs.kept:
            _series(job).move(State.RECEIVING, "a late slice arrived")
        return store(body)

    monkeypatch.setattr(pacs, "_store", late)
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    Worker(settings).advance(Queue.DELIVERY, job.id)
    assert len(pacs.kept) == len(_files(settings, job)) > 24  # in more than one request
    assert _series(job).state == State.RECEIVING
    job = Job.get_by_id(job.id)
    assert job.finished_at
    assert job.lease_owner is None
    assert job.delivered_at is None


def test_the_files_may_go_after_the_button_was_pressed(settings, pacs, deliverable):
    job = deliverable(settings)
    _files(settings, job)[0].unlink()
    Worker(settings).advance(Queue.DELIVERY, job.id)
    assert (_series(job).state, Job.get().stage) == (State.QUEUED, "")
    assert "computed anew" in _series(job).reason
    assert dead_letters() == []
    assert pacs.requests == []


@pytest.mark.parametrize("delivery", list(Delivery))
def test_orthanc_is_stopped_in_the_middle_and_started_again(
    make_settings, needs_orthanc, deliverable, deliver, monkeypatch, delivery
):
    settings = make_settings(
        minimum_free_bytes=0, storage_commitment="off", delivery=delivery, stable_age=3600
    )
    open_records(settings.database_path)
    job = deliverable(settings)
    sent = _uids(settings, job)
    with OrthancProcess(settings) as orthanc:
        first = []

        class Stopping(work.ProgressWriter):
            def __call__(self, part):
                if not first:
                    first.append(part)
                    if delivery is Delivery.CSTORE:
                        os.kill(orthanc.pid, signal.SIGKILL)
                    orthanc.stop()

        monkeypatch.setattr(work, "ProgressWriter", Stopping)
        Worker(settings).advance(Queue.DELIVERY, job.id)
        assert 0 < first[0] < 1
        assert _series(job).state == State.DELIVERING
        assert "next try in" in _series(job).reason
        assert _uids(settings, job) == sent
        orthanc.start()
        orthanc.wait_ready()
        Job.update(not_before=0).execute()
        deliver(settings, job)
        assert _series(job).state == State.DONE
        result = find(job.series_id)
        found = Job.get_by_id(job.id)
        assert found.delivered_at
        noted = Pacs(settings)
        study, series = _where(found)
        assert noted.instances(study, series) == sent
        assert result.dead_letter is False


def _where(job):
    result = json.loads(job.outcome)["result"]
    return result["study_instance_uid"], result["series_instance_uid"]


@pytest.mark.parametrize(
    ("mood", "words"),
    [("full", "refused: 0xA700"), ("aborts", "C-STORE to"), ("slow", "took longer than")],
)
def test_c_store_to_a_pacs_that_refuses_breaks_off_or_takes_for_ever(
    settings, deliverable, mood, words
):
    seen = []

    def store(event):
        seen.append(event)
        if mood == "aborts" and len(seen) == 3:
            event.assoc.abort()
        return 0xA700 if mood == "full" else 0x0000

    ae = AE(ae_title="ORTHANC")
    ae.add_supported_context(MRImageStorage)
    server = ae.start_server(
        ("127.0.0.1", settings.pacs_port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        job = deliverable(settings)
        chosen = settings.model_copy(
            update={"delivery": Delivery.CSTORE}
            | ({"delivery_timeout": 1e-6} if mood == "slow" else {})
        )
        with pytest.raises(DeliveryError, match=words):
            Pacs(chosen).store(_files(settings, job), lambda _: None)
        assert len(seen) < 30
    finally:
        server.shutdown()


def test_a_pacs_that_accepts_the_connection_and_says_nothing(settings, deliverable):
    job = deliverable(settings)
    with socket.create_server(("127.0.0.1", settings.pacs_port)):
        chosen = settings.model_copy(update={"delivery": Delivery.CSTORE, "network_timeout": 0.5})
        with pytest.raises(DeliveryError, match="no association"):
            Pacs(chosen).store(_files(settings, job), lambda _: None)
