"""The survival list: after each attack the next good instance is stored, the memory of all
processes stays flat, and the log says who did what.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from mrisr_node.errors import DeliveryError, NodeError, StageError
from mrisr_node.intake.assembly import Assembly
from mrisr_node.intake.screening import SOP_CLASSES, TRANSFER_SYNTAXES
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.jobs import pipeline
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Failure, Instance, Job, Rejection, Series, State, open_records
from tests.survival.association_cases import ASSOCIATION_CASES
from tests.survival.message_cases import MESSAGE_CASES
from tests.survival.network_attack import Target
from tests.survival.object_cases import ACCEPTED, OBJECT_CASES, honest
from tests.survival.peer import Peer, encoded
from tests.survival.process import ReceiverProcess

_MAXIMUM = 6
_GROWTH = 24 * 1024**2
_ATTACKER = r"127\.0\.0\.(?!1\b)\d+"


class _Log:
    """What the receiver says from now on."""

    def __init__(self, receiver: ReceiverProcess) -> None:
        self._receiver = receiver
        self._since = receiver.logged()

    def lines(self) -> list[str]:
        """Return what was said until now."""
        return self._receiver.said(self._since)

    def wait_for(self, pattern: str) -> None:
        """Wait for a line in which something is found."""
        deadline = time.monotonic() + 60
        while not any(re.search(pattern, line) for line in self.lines()):
            assert time.monotonic() < deadline, (pattern, self.lines())
            time.sleep(0.05)


@pytest.fixture(scope="module")
def settings(make_settings):
    made = make_settings(
        minimum_free_bytes=0,
        maximum_associations=_MAXIMUM,
        maximum_associations_per_address=12,
        network_timeout=15.0,
        log_format="json",
        # The series stay as they are until a test sweeps.
        quiet_seconds=1800.0,
        reconcile_seconds=3600.0,
    )
    open_records(made.database_path)
    return made


@pytest.fixture(scope="module")
def receiver(settings, sample, tmp_path_factory) -> Iterator[ReceiverProcess]:
    folder = tmp_path_factory.mktemp("receiver")
    with ReceiverProcess(settings, folder / "log") as running:
        # What is loaded with the first instances does not count as growth.
        for _ in range(8):
            _good_instance_is_stored(settings, sample, folder)
        yield running


@pytest.fixture
def log(receiver):
    return _Log(receiver)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("survival"), Acquisition(slices=8, matrix=64))


@pytest.fixture
def target(settings, receiver, sample):
    def kept() -> int:
        folders = settings.spool_dir, settings.quarantine_dir
        return sum(path.is_file() for folder in folders for path in folder.rglob("*"))

    return Target(settings.receiver_port, sample.paths[0], _MAXIMUM, kept)


@pytest.fixture
def survived(settings, receiver, sample, tmp_path) -> Iterator[None]:
    """Check after the test that everything is as before it."""
    _good_instance_is_stored(settings, sample, tmp_path)
    processes, before = receiver.processes, receiver.memory()
    yield
    _good_instance_is_stored(settings, sample, tmp_path)
    assert receiver.processes == processes, "a receiver process died"
    assert receiver.memory() - before < _GROWTH


def _good_instance_is_stored(settings, sample, folder: Path) -> None:
    dataset = honest(sample.paths[1])
    dataset.save_as(folder / "good.dcm")
    where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
    deadline = time.monotonic() + 30
    while True:
        try:
            assert send_files([folder / "good.dcm"], where, lambda _: None) == []
            break
        except DeliveryError:
            # An association that was just aborted may still take a place; who is turned away for
            # that is told that it is transient, and comes again.
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert Instance.select().where(Instance.sop_instance_uid == dataset.SOPInstanceUID).exists()


@pytest.mark.parametrize("case", [*MESSAGE_CASES, *ASSOCIATION_CASES], ids=lambda case: case.name)
def test_an_attack_on_the_network_is_survived(case, target, survived, log):
    assert case.attack(target)
    if case.logged is None:
        assert not any(re.search(_ATTACKER, line) for line in log.lines())
    else:
        log.wait_for(f"{_ATTACKER}.*{case.logged}")
    assert all(line.isprintable() for line in log.lines())
    # For what ends a process; nothing does.
    assert not any(line.startswith("critical") for line in log.lines())


def _sent(settings, data, instance, transfer=ExplicitVRLittleEndian, sop_class=MRImageStorage):
    """Send a data set over an association of its own; return the status."""
    with Peer(settings.receiver_port, "127.0.0.1") as peer:
        peer.establish(sop_class, transfer)
        return peer.store(data, instance, sop_class)


@pytest.mark.parametrize("case", OBJECT_CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, which makes these objects
def test_an_odd_object_is_survived(case, settings, sample, survived, log):
    rejected = Rejection.select().count()
    data, instance = case.make(honest(sample.paths[0]))
    assert _sent(settings, data, instance, case.transfer) == case.status
    if case.status == ACCEPTED:
        row = Instance.get(Instance.sop_instance_uid == instance)
        # Whatever came before the data set, what is passed on has no preamble.
        with (settings.spool_dir / row.path).open("rb") as file:
            assert file.read(132) == bytes(128) + b"DICM"
        log.wait_for("answered 1 × 0x0000")
        return
    assert Rejection.select().count() == rejected + 1
    row = Rejection.select().order_by(Rejection.id.desc()).get()
    with (settings.quarantine_dir / row.path).open("rb") as file:
        assert file.read(132) == bytes(128) + b"DICM"
    assert row.reason
    log.wait_for(f"from ORTHANC put into quarantine: {re.escape(row.reason)}")


@pytest.mark.parametrize(
    "archive",
    ["cornerstone", "dicom-fuzzing-corpus", "highdicom", "nibabel_nicom", "pydicom-data",
     "pydicom_charset"],
)  # fmt: skip
def test_malformed_files_of_others_are_survived(archive, settings, survived, shared_data):
    files = [p for p in sorted(shared_data(f"malformed/{archive}").rglob("*")) if p.is_file()]
    assert files
    for path in files:
        began = time.monotonic()
        status = _sent(settings, *_as_sent(path))
        # Read or refused in words; 0x0111: a file that differs from an earlier one of its UID.
        assert status in (0x0000, 0x0111, 0xA900, 0xC000), path.name
        assert time.monotonic() - began < 60, path.name


def _as_sent(path: Path) -> tuple[bytes, str, str, str]:
    """Return data set, instance UID, transfer syntax and class of a file, as far as it tells."""
    content = path.read_bytes()
    instance, transfer, sop_class = generate_uid(), ExplicitVRLittleEndian, MRImageStorage
    try:
        meta = read_file_meta_info(path)
        # The group length counts from the end of its own element.
        start = content.index(b"DICM") + 16 + int(meta.FileMetaInformationGroupLength)
        instance = str(meta.MediaStorageSOPInstanceUID)
    except Exception:  # noqa: BLE001 - these files are broken in any way
        return content, instance, transfer, sop_class
    if meta.get("TransferSyntaxUID") in TRANSFER_SYNTAXES:
        transfer = str(meta.TransferSyntaxUID)
    if meta.get("MediaStorageSOPClassUID") in SOP_CLASSES:
        sop_class = str(meta.MediaStorageSOPClassUID)
    return content[start:], instance, transfer, sop_class


@pytest.fixture
def no_further_than_conversion(monkeypatch) -> None:
    """End jobs where the brain begins: a head of these few slices has no plausible one."""

    def far_enough(_):
        raise StageError("converted")

    monkeypatch.setitem(pipeline._STAGES, Stage.BRAIN, far_enough)


@pytest.mark.filterwarnings("ignore")  # of pydicom, which makes and reads these objects
@pytest.mark.usefixtures("no_further_than_conversion")
def test_series_of_odd_objects_end_with_a_reason_and_good_ones_go_on(settings, receiver, sample):
    named = {}
    for case in OBJECT_CASES:
        if case.status != ACCEPTED:
            continue
        uid = generate_uid()
        named[uid] = case
        for path in sample.paths:
            data, instance = case.make(honest(path, uid))
            assert _sent(settings, data, instance, case.transfer) == ACCEPTED

    Assembly(settings, clock=lambda: time.time() + 3600).sweep()
    worker = Worker(settings)
    for job in list(Job.select()):
        worker.advance(Queue.CPU, job.id)
    ends = {}
    for uid, case in named.items():
        series = Series.get(Series.series_instance_uid == uid)
        ends[case.name] = f"{series.state}: {series.reason}"
    wrong = {
        case.name: ends[case.name]
        for case in named.values()
        if (case.end or "failed: brain: converted") not in ends[case.name]
    }
    assert not wrong
    assert {State.FAILED, State.SKIPPED} >= {end.partition(":")[0] for end in ends.values()}
    # Refused in words, and not stumbled over.
    known = {kind.__name__ for kind in _kinds(NodeError)}
    assert {failure.kind for failure in Failure.select()} <= known


def _kinds(of: type[Exception]) -> Iterator[type[Exception]]:
    yield of
    for kind in of.__subclasses__():
        yield from _kinds(kind)


@pytest.mark.usefixtures("no_further_than_conversion", "survived")
def test_after_all_attacks_the_next_good_series_is_assembled_and_converted(settings, sample):
    uid = generate_uid()
    for path in sample.paths:
        dataset = honest(path, uid)
        assert _sent(settings, encoded(dataset), str(dataset.SOPInstanceUID)) == ACCEPTED
    series = Series.get(Series.series_instance_uid == uid)
    jobs = Assembly(settings, clock=lambda: time.time() + 3600).sweep()
    [job] = [job for job in jobs if job.series_id == series.id]
    assert Series.get_by_id(series.id).state == State.QUEUED
    Worker(settings).advance(Queue.CPU, job.id)
    # Every voxel was compared with the files before this stage began.
    assert Series.get_by_id(series.id).reason == "brain: converted"
