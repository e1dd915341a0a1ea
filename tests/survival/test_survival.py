"""The survival list: after each attack the next good instance is stored, and memory stays flat."""

import logging
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Instance, Rejection, open_records
from tests.survival.network_cases import NETWORK_CASES, Target
from tests.survival.object_cases import OBJECT_CASES, honest
from tests.survival.peer import Peer, encoded

_MAXIMUM = 6


@pytest.fixture(scope="module")
def settings(make_settings):
    made = make_settings(
        minimum_free_bytes=0,
        maximum_associations=_MAXIMUM,
        maximum_associations_per_address=12,
        network_timeout=15.0,
    )
    open_records(made.database_path)
    return made


@pytest.fixture(scope="module")
def receiver(settings):
    running = Receiver(settings)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("survival"), Acquisition(slices=2, matrix=64))


@pytest.fixture
def target(settings, receiver, sample):
    dataset = dcmread(sample.paths[0])
    return Target(settings.receiver_port, encoded(dataset), str(dataset.SOPInstanceUID), _MAXIMUM)


def _good_instance_is_stored(settings, sample, folder: Path) -> None:
    dataset = dcmread(sample.paths[1])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.save_as(folder / "good.dcm")
    where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
    assert send_files([folder / "good.dcm"], where, lambda _: None) == []
    assert Instance.select().where(Instance.sop_instance_uid == dataset.SOPInstanceUID).exists()


def _memory(receiver) -> int:
    processes = [psutil.Process(pid) for pid in receiver.processes]
    return sum(
        part.memory_info().rss for p in processes for part in (p, *p.children(recursive=True))
    )


@pytest.mark.parametrize("case", NETWORK_CASES, ids=lambda case: case.__name__)
def test_an_attack_on_the_network_is_survived(
    case, target, settings, receiver, sample, tmp_path, caplog
):
    _good_instance_is_stored(settings, sample, tmp_path)
    processes, before = receiver.processes, _memory(receiver)
    with caplog.at_level(logging.INFO):
        case(target)
    _good_instance_is_stored(settings, sample, tmp_path)
    assert receiver.processes == processes, "a receiver process died"
    assert _memory(receiver) - before < 100 * 1024**2


@pytest.mark.parametrize("case", OBJECT_CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, which makes these objects
def test_an_odd_object_is_survived(case, settings, receiver, sample, tmp_path):
    _good_instance_is_stored(settings, sample, tmp_path)
    processes, before = receiver.processes, _memory(receiver)
    rejected = Rejection.select().count()
    data, instance = case.make(honest(sample.paths[0]))
    with Peer(settings.receiver_port, "127.0.0.1") as peer:
        peer.establish(transfer=case.transfer)
        assert peer.store(data, instance) == case.status
    if case.status == 0x0000:
        assert Instance.select().where(Instance.sop_instance_uid == instance).exists()
    else:
        assert Rejection.select().count() == rejected + 1
        row = Rejection.select().order_by(Rejection.id.desc()).get()
        assert (settings.quarantine_dir / row.path).is_file()
        assert row.reason
    _good_instance_is_stored(settings, sample, tmp_path)
    assert receiver.processes == processes, "a receiver process died"
    assert _memory(receiver) - before < 100 * 1024**2
