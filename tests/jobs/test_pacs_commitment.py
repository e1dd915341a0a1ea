"""The PACS's promise to keep a result: Orthanc's, and that of PACSs that hesitate or refuse."""

import json
import threading
import time
from contextlib import contextmanager, nullcontext

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from mrisr_node.choices import StorageCommitment
from mrisr_node.intake.receiver import Receiver
from mrisr_node.jobs.dead_letters import dead_letters
from mrisr_node.jobs.stages import Queue
from mrisr_node.jobs.work import Worker
from mrisr_node.records import CommitmentRequest, Failure, Job, Series, State, open_records
from mrisr_node.results import commitment

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def settings(make_settings, monkeypatch):
    monkeypatch.setattr(commitment, "_HOLD", 0.5)
    made = make_settings(minimum_free_bytes=0, delivery_attempts=2, delivery_first_delay=1.0)
    open_records(made.database_path)
    return made


class Keeper:
    """The DIMSE side of a PACS: notes what it is asked, and answers as it is told to."""

    def __init__(self, settings, mood):
        self.settings, self.mood = settings, mood
        self.asked: list[Dataset] = []

    def act(self, event):
        self.asked.append(event.action_information)
        if self.mood == "refuses":
            return 0x0122, None
        if self.mood == "stumbles":
            return 0x0110, None
        if self.mood == "breaks":
            event.assoc.abort()
        if self.mood == "here":
            threading.Thread(target=self._answer, args=(event.assoc,), daemon=True).start()
        return 0x0000, None

    def _answer(self, association):
        time.sleep(0.05)
        self.report(association)

    def report(self, association, failed=()):
        """Report on what was asked last."""
        asked = self.asked[-1]
        told = Dataset()
        told.TransactionUID = asked.TransactionUID
        told.ReferencedSOPSequence = asked.ReferencedSOPSequence[len(failed) :]
        if failed:
            told.FailedSOPSequence = asked.ReferencedSOPSequence[: len(failed)]
            for item, reason in zip(told.FailedSOPSequence, failed, strict=True):
                item.FailureReason = reason
        status, _ = association.send_n_event_report(
            told, 2 if failed else 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        return status.Status

    def report_later(self, failed=()):
        """Report on an association of its own, to our receiver."""
        ae = AE(ae_title="ORTHANC")
        ae.add_requested_context(StorageCommitmentPushModel)
        association = ae.associate(
            "127.0.0.1", self.settings.receiver_port, ae_title="MRISR",
            ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
        )  # fmt: skip
        assert association.is_established
        assert association.accepted_contexts[0].as_scp
        status = self.report(association, failed)
        association.release()
        return status


@contextmanager
def keeper(settings, mood="later"):
    running = Keeper(settings, mood)
    ae = AE(ae_title="ORTHANC")
    ae.add_supported_context(
        Verification if mood == "does not offer" else StorageCommitmentPushModel
    )
    server = ae.start_server(
        ("127.0.0.1", settings.pacs_port), block=False,
        evt_handlers=[(evt.EVT_N_ACTION, running.act)],
    )  # fmt: skip
    try:
        yield running
    finally:
        server.shutdown()


def _advance(settings, job):
    Job.update(not_before=0).execute()
    Worker(settings, lambda: 0.0).advance(Queue.DELIVERY, job.id)
    return Series.get_by_id(job.series_id), Job.get_by_id(job.id)


def test_orthanc_promises_to_keep_a_result(orthanc, deliverable, deliver):
    """Orthanc answers to our receiver, on an association of its own."""
    orthanc.wait_ready()
    settings = orthanc.settings
    open_records(settings.database_path)
    receiver = Receiver(settings)
    receiver.start()
    try:
        job = deliverable(settings, "1.2.840.1")
        deliver(settings, job)
    finally:
        receiver.stop()
    series, job = Series.get_by_id(job.series_id), Job.get_by_id(job.id)
    assert (series.state, series.reason) == (State.DONE, "the result is in the PACS")
    assert job.committed_at is not None
    assert json.loads(job.outcome)["commitment"]["committed_at"] == job.committed_at
    request = CommitmentRequest.get()
    assert (
        len(json.loads(request.instances)) == job.result_instances or job.result_instances is None
    )
    assert json.loads(request.failed) == {}


def test_the_answer_may_come_on_the_same_association(settings, pacs, deliverable, monkeypatch):
    monkeypatch.setattr(commitment, "_HOLD", 60)
    with keeper(settings, "here") as there:
        series, job = _advance(settings, deliverable(settings))
    assert series.state == State.DONE
    assert job.committed_at
    assert len(there.asked[0].ReferencedSOPSequence) == len(pacs.kept)


def test_the_answer_may_come_later_and_what_is_not_kept_is_stored_again(
    settings, pacs, deliverable
):
    receiver = Receiver(settings)
    receiver.start()
    try:
        with keeper(settings) as there:
            series, job = _advance(settings, deliverable(settings))
            assert series.state == State.DELIVERING
            assert "has not answered yet" in series.reason
            assert not Failure.select().exists()
            # In the PACS, and so in view, while its promise is waited for.
            assert job.delivered_at is not None
            assert job.not_before > 0
            posts = pacs.requests.count("POST")
            series, job = _advance(settings, job)
            assert len(there.asked) == 1, "asked once, looked for again"
            assert there.report_later(failed=[0x0112, 0x0110]) == 0x0000
            series, job = _advance(settings, job)
            assert "does not commit to 2 of 30 instances, first with 0x" in series.reason
            assert (job.stage, job.attempts, job.delivered_at) == ("store", 1, None)
            series, job = _advance(settings, job)
            assert pacs.requests.count("POST") == 2 * posts
            assert len(there.asked) == 2
            assert there.report_later() == 0x0000
            series, job = _advance(settings, job)
        assert series.state == State.DONE
        assert job.committed_at
    finally:
        receiver.stop()


@pytest.mark.parametrize("mood", ["not there", "stumbles", "breaks"])
def test_a_pacs_that_cannot_be_asked_is_asked_again(settings, pacs, deliverable, mood):
    """It restarts between showing the result and being asked: its promise is not given up."""
    job = deliverable(settings)
    with keeper(settings, mood) if mood != "not there" else nullcontext():
        for _ in range(3):
            series, job = _advance(settings, job)
            assert (series.state, job.stage) == (State.DELIVERING, "commit")
            assert series.reason.startswith("the PACS cannot be asked to keep the result (")
            assert job.attempts == 0
            assert job.delivered_at is not None
    assert not CommitmentRequest.select().exists()
    assert not Failure.select().exists()
    with keeper(settings, "here") as there:
        series, job = _advance(settings, job)
    assert (series.state, len(there.asked)) == (State.DONE, 1)
    assert job.committed_at


@pytest.mark.parametrize("mood", ["does not offer", "refuses"])
def test_a_pacs_that_does_not_offer_it_is_asked_once(settings, pacs, deliverable, mood):
    job = deliverable(settings)
    with keeper(settings, mood):
        series, job = _advance(settings, job)
    assert (series.state, job.committed_at) == (State.DONE, None)
    assert "not offered" in job.outcome or "status 0x0122" in job.outcome
    assert not CommitmentRequest.select().exists()


@pytest.mark.parametrize("mood", ["not there", "does not offer", "refuses", "silent"])
@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_without_a_promise_what_the_pacs_shows_has_to_do_or_does_not(
    settings, pacs, deliverable, mood, wanted
):
    chosen = settings.model_copy(
        update={"storage_commitment": StorageCommitment(wanted), "commitment_wait": 1e-9}
    )
    job = deliverable(chosen)
    if mood == "not there":
        for _ in range(4):
            series, job = _advance(chosen, job)
    else:
        with keeper(chosen, mood):
            for _ in range(4):
                series, job = _advance(chosen, job)
    if wanted == "auto":
        assert (series.state, series.reason) == (State.DONE, "the result is in the PACS")
        assert "commitment" in job.outcome
        assert dead_letters() == []
    else:
        assert series.state == State.FAILED
        assert "no storage commitment by the PACS" in series.reason
        assert dead_letters() == [series.id]
    assert job.committed_at is None
