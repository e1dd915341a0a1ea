"""What we promise to peers: asked by Orthanc and by a scanner of pynetdicom's, and reported."""

import json
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from mrisr_node.intake import commitment_reports
from mrisr_node.intake.commitment_reports import CommitmentReports
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.intake.spool import Spool, StoreOutcome
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import (
    CommitmentReport,
    Instance,
    Rejection,
    Series,
    connection,
    open_records,
)
from tests.spooling import put, refuse

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("promise"), Acquisition(slices=3, matrix=16))


@pytest.fixture
def settings(make_settings, free_port, tmp_path):
    made = make_settings(
        data_dir=tmp_path / "node", minimum_free_bytes=0, delivery_attempts=3,
        accepted_ae_titles=("SCANNER", "STRAY", "ORTHANC"), delivery_first_delay=1e-6,
        commitment_peers={"SCANNER": f"127.0.0.1:{free_port()}"},
    )  # fmt: skip
    open_records(made.database_path)
    return made


@pytest.fixture
def stored(settings, receiver, sample):
    """The sample, sent by the scanner; what it may ask about."""
    where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "SCANNER")
    assert send_files(sample.paths, where, lambda _: None) == []
    return [(str(d.SOPClassUID), str(d.SOPInstanceUID)) for d in map(dcmread, sample.paths)]


def _information(references, transaction):
    information = Dataset()
    information.TransactionUID = transaction
    information.ReferencedSOPSequence = []
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        information.ReferencedSOPSequence.append(item)
    return information


class Reports:
    """The reports that a peer gets."""

    def __init__(self, status=0x0000):
        self.got, self.status = [], status

    def take(self, event):
        told = event.event_information
        kept = [str(i.ReferencedSOPInstanceUID) for i in told.get("ReferencedSOPSequence") or []]
        failed = {
            str(i.ReferencedSOPInstanceUID): i.FailureReason
            for i in told.get("FailedSOPSequence") or []
        }
        self.got.append((str(told.TransactionUID), event.event_type, sorted(kept), failed))
        return self.status, None

    @property
    def handlers(self):
        return [(evt.EVT_N_EVENT_REPORT, self.take)]


@contextmanager
def _scanner(settings, reports):
    """The scanner's own listener, where it waits for reports."""
    ae = AE(ae_title="SCANNER")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    where = settings.peer_address("SCANNER")
    server = ae.start_server((where.host, where.port), block=False, evt_handlers=reports.handlers)
    try:
        yield
    finally:
        server.shutdown()


@contextmanager
def _asking(settings, calling="SCANNER", handlers=()):
    ae = AE(ae_title=calling)
    ae.add_requested_context(StorageCommitmentPushModel)
    peer = ae.associate(
        "127.0.0.1", settings.receiver_port, ae_title="MRISR", evt_handlers=list(handlers)
    )
    assert peer.is_established
    try:
        yield peer
    finally:
        peer.release()


def _ask(peer, references, transaction=None, action=1, instance=StorageCommitmentPushModelInstance):
    transaction = transaction or generate_uid()
    status, _ = peer.send_n_action(
        _information(references, transaction), action, StorageCommitmentPushModel, instance
    )
    return status.Status, transaction


def test_a_scanner_is_told_what_is_here_and_what_is_not(settings, stored, tmp_path, sample):
    references = [
        *stored,
        (MRImageStorage, "1.2.3.4.5"),
    ]
    spool = Spool(settings.spool_dir, settings.quarantine_dir, 0)
    paths = dict(zip(sorted(uid for _, uid in stored), spool.paths(Series.get()), strict=True))
    [whole, cut, other] = [uid for _, uid in stored]
    damaged = bytearray(paths[cut].read_bytes())
    damaged[-1] ^= 1
    paths[cut].write_bytes(damaged)
    references[2] = (EnhancedMRImageStorage, other)
    reports = Reports()
    with _scanner(settings, reports):
        with _asking(settings) as peer:
            status, transaction = _ask(peer, references)
        assert status == 0x0000
        CommitmentReports(settings).round()
    assert reports.got == [
        (transaction, 2, [whole], {"1.2.3.4.5": 0x0112, cut: 0x0110, other: 0x0119})
    ]
    promised = Instance.select().where(Instance.committed_at.is_null(False))
    assert [row.sop_instance_uid for row in promised] == [whole]
    assert CommitmentReport.get().end == "1 of 4 instances are kept"
    # Told once.
    with _scanner(settings, reports):
        CommitmentReports(settings).round()
    assert len(reports.got) == 1


@pytest.mark.parametrize("senders", [("SCANNER",), ("STRAY",), ("STRAY", "SCANNER")])
def test_what_came_again_with_other_content_is_not_promised(
    settings, stored, sample, tmp_path, senders
):
    """To nobody: the same bytes lie in quarantine once, whoever brought them."""
    altered = dcmread(sample.paths[0])
    altered.PixelData = bytes(len(altered.PixelData))
    altered.save_as(tmp_path / "altered.dcm")
    for sender in senders:
        where = Destination("127.0.0.1", settings.receiver_port, "MRISR", sender)
        assert send_files([tmp_path / "altered.dcm"], where, lambda _: None) != []
    assert Rejection.select().count() == 1
    # By a clock that went back since the first one came.
    Rejection.update(at=0.0).execute()
    reports = Reports()
    with _scanner(settings, reports):
        with _asking(settings) as peer:
            _ask(peer, stored)
        CommitmentReports(settings).round()
    assert reports.got[0][3] == {str(altered.SOPInstanceUID): 0x0110}


def test_what_was_refused_before_for_another_reason_counts_too(settings, stored, sample, tmp_path):
    """As when the process that looked at it was killed from outside, and not the second time."""
    altered = dcmread(sample.paths[0])
    altered.PixelData = bytes(len(altered.PixelData))
    altered.save_as(tmp_path / "altered.dcm")
    refuse(settings, (tmp_path / "altered.dcm").read_bytes(), "it took too long")
    assert put(settings, tmp_path / "altered.dcm") is StoreOutcome.DIFFERENT
    [row] = Rejection.select()
    assert "other content" in row.reason
    assert row.sop_instance_uid == altered.SOPInstanceUID
    # And what is in quarantine does not count against itself, once it is what is kept.
    kept = Instance.get(Instance.sop_instance_uid == altered.SOPInstanceUID)
    (settings.spool_dir / kept.path).unlink()
    kept.delete_instance()
    assert put(settings, tmp_path / "altered.dcm") is StoreOutcome.NEW
    reports = Reports()
    with _scanner(settings, reports):
        with _asking(settings) as peer:
            _ask(peer, stored)
        CommitmentReports(settings).round()
    assert reports.got[0][3] == {}


def test_what_retention_deleted_is_not_promised_even_if_it_came_again(settings, stored):
    Series.update(copies_deleted_at=time.time()).execute()
    reports = Reports()
    with _scanner(settings, reports):
        with _asking(settings) as peer:
            _ask(peer, stored)
        CommitmentReports(settings).round()
    assert set(reports.got[0][3].values()) == {0x0112}
    assert Instance.select().where(Instance.committed_at.is_null(False)).count() == 0


def test_a_report_outlives_a_peer_that_is_down_and_a_restart(settings, stored):
    with _asking(settings) as peer:
        _, transaction = _ask(peer, stored)
    CommitmentReports(settings).round()
    waiting = CommitmentReport.get()
    assert (waiting.attempts, waiting.ended_at) == (1, None)
    # Other processes, later: the records are all that is left.
    reports = Reports()
    time.sleep(0.01)
    with _scanner(settings, reports):
        CommitmentReports(settings).round()
    assert reports.got == [(transaction, 1, sorted(uid for _, uid in stored), {})]
    assert CommitmentReport.get().ended_at is not None


def test_a_peer_that_does_not_take_its_report_is_given_up_and_may_ask_again(settings, stored):
    refusing = Reports(status=0x0110)
    with _asking(settings) as peer, _scanner(settings, refusing):
        _, transaction = _ask(peer, stored)
        for _ in range(5):
            CommitmentReport.update(not_before=0).execute()
            CommitmentReports(settings).round()
    assert len(refusing.got) == 3
    assert "given up after 3 tries: status 0x0110" in CommitmentReport.get().end
    reports = Reports()
    with _asking(settings) as peer, _scanner(settings, reports):
        assert _ask(peer, stored, transaction)[0] == 0x0000
        # The same Transaction UID for something else is no repeat.
        assert _ask(peer, stored[:1], transaction)[0] == 0x0110
        CommitmentReports(settings).round()
    assert [got[0] for got in reports.got] == [transaction]
    assert CommitmentReport.select().count() == 1


def test_a_peer_without_an_address_gets_its_report_where_it_waits(settings, stored):
    reports = Reports()
    with _asking(settings, "STRAY", reports.handlers) as peer:
        _, transaction = _ask(peer, stored)
        _until(lambda: CommitmentReport.get().ended_at is not None)
    assert [got[:2] for got in reports.got] == [(transaction, 1)]


def test_a_peer_without_an_address_that_does_not_wait_is_not_lost(settings, stored, free_port):
    with _asking(settings, "STRAY") as peer:
        _ask(peer, stored)
    CommitmentReports(settings).round()
    assert CommitmentReport.get().attempts == 0
    # The operator reads the log, and names the address.
    peers = {"STRAY": f"127.0.0.1:{free_port()}"}
    told = settings.model_copy(update={"commitment_peers": peers})
    CommitmentReports(told).round()
    assert CommitmentReport.get().attempts == 1
    for thread in threading.enumerate():
        if thread.name == "report on commitment":
            thread.join()  # it has looked whether the peer still waits
    assert CommitmentReport.get().ended_at is None


def test_what_cannot_be_asked_is_refused(settings, receiver, stored):
    with _asking(settings, "NOBODY") as peer:
        assert _ask(peer, stored)[0] == 0x0124
    with _asking(settings) as peer:
        assert _ask(peer, stored, action=2)[0] == 0x0123
        assert _ask(peer, stored, instance="1.2.3")[0] == 0x0112
        assert _ask(peer, [])[0] == 0x0115
        assert _ask(peer, [(MRImageStorage, "")])[0] == 0x0115
        many = [(MRImageStorage, f"1.2.{number}") for number in range(20_001)]
        assert _ask(peer, many)[0] == 0x0213
        status, _ = peer.send_n_action(
            None, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        assert status.Status == 0x0115
        # An answer to what was never asked.
        status, _ = peer.send_n_event_report(
            _information(stored, "1.2.3"), 1, StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )  # fmt: skip
        assert status.Status == 0x0112
    assert CommitmentReport.select().count() == 0


def test_a_peer_has_so_many_requests_without_a_report(settings, receiver):
    instances = json.dumps([[MRImageStorage, "1.2.3"]])
    for peer in ("SCANNER", "STRAY"):
        for number in range(100):
            CommitmentReport.create(
                peer=peer, transaction_uid=f"1.2.{number}", instances=instances,
                ended_at=None if number or peer == "SCANNER" else 1.0,
            )  # fmt: skip
    with _asking(settings) as peer:
        assert _ask(peer, [(MRImageStorage, "1.2.3")])[0] == 0x0213
        # One of those, again.
        assert _ask(peer, [(MRImageStorage, "1.2.3")], "1.2.7")[0] == 0x0000
    with _asking(settings, "STRAY") as peer:
        assert _ask(peer, [(MRImageStorage, "1.2.3")])[0] == 0x0000
        assert _ask(peer, [(MRImageStorage, "1.2.3")])[0] == 0x0213


def test_below_the_watermark_nothing_is_noted(settings):
    crowded = settings.model_copy(update={"minimum_free_bytes": 1 << 60})
    running = Receiver(crowded)
    running.start()
    try:
        with _asking(settings) as peer:
            assert _ask(peer, [(MRImageStorage, "1.2.3")])[0] == 0x0213
    finally:
        running.stop()
    assert CommitmentReport.select().count() == 0


def test_a_round_reads_nothing_of_what_is_not_due(settings, caplog):
    for peer, not_before in (("SCANNER", time.time() + 1000), ("STRAY", 0.0)):
        CommitmentReport.create(
            peer=peer, transaction_uid="1.2", instances="[]", not_before=not_before
        )
    with caplog.at_level("DEBUG", "peewee"):
        CommitmentReports(settings).round()
    asked = [record.getMessage() for record in caplog.records if record.name == "peewee"]
    assert any("not_before" in query for query in asked)
    assert not any('"instances"' in query for query in asked)


def test_reports_that_wait_on_their_associations_are_few(settings, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(commitment_reports, "_PEER_WAITS", 0.0)
    monkeypatch.setattr(commitment_reports, "_report", lambda *_: release.wait())
    report = CommitmentReport.create(peer="STRAY", transaction_uid="1.2", instances="[]")
    before = set(threading.enumerate())
    while commitment_reports.may_report_here():
        commitment_reports.report_here(settings, None, report.id)
    waiting = set(threading.enumerate()) - before
    assert len(waiting) <= 16
    release.set()
    for thread in waiting:
        thread.join()
    assert commitment_reports.may_report_here()


def test_orthanc_asks_and_gets_its_report(orthanc, sample):
    """The session's Orthanc; the receiver stands where its configuration says."""
    orthanc.wait_ready()
    settings = orthanc.settings.model_copy(update={"minimum_free_bytes": 0})
    open_records(settings.database_path)
    stop = threading.Event()
    reports = threading.Thread(target=CommitmentReports(settings).run, args=(stop,))
    receiver = Receiver(settings)
    receiver.start()
    reports.start()
    try:
        where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
        assert send_files(sample.paths, where, lambda _: None) == []
        auth = (settings.orthanc_username, settings.pacs_password())
        with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
            datasets = [dcmread(path, stop_before_pixels=True) for path in sample.paths]
            asked = [[str(d.SOPClassUID), str(d.SOPInstanceUID)] for d in datasets]
            for references, status in ((asked, "Success"), ([*asked, [MRImageStorage, "1.9"]],
                                                            "Failure")):  # fmt: skip
                answer = client.post(
                    "/modalities/mrisr/storage-commitment",
                    json={"DicomInstances": references, "Timeout": 30},
                )
                assert answer.status_code == 200, answer.text
                there = answer.json()["Path"]
                _until(lambda there=there: client.get(there).json()["Status"] != "Pending")
                told = client.get(there).json()
                assert told["Status"] == status, told
            assert [f["SOPInstanceUID"] for f in told["Failures"]] == ["1.9"]
    finally:
        stop.set()
        reports.join()
        receiver.stop()


def _until(condition, seconds=120):
    end = time.monotonic() + seconds
    while True:
        with connection():
            if condition():
                return
        assert time.monotonic() < end
        time.sleep(0.1)
