"""The listener, with DCMTK's clients and pynetdicom's against it."""

import hashlib
import ipaddress
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    MRImageStorage,
)
from pynetdicom import AE, build_context
from pynetdicom.sop_class import CTImageStorage, Verification

from mrisr_node.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from mrisr_node.intake.part_10 import hold_the_same
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.screening import screen
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.intake.spool import Spool
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Instance, Rejection, Series, State, connection, open_records

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("lost_sockets"),
]


@pytest.fixture
def settings(make_settings, tmp_path):
    made = make_settings(data_dir=tmp_path / "node", minimum_free_bytes=0)
    open_records(made.database_path)
    return made


@pytest.fixture
def receiver(settings) -> Iterator[Receiver]:
    running = Receiver(settings)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("rx"), Acquisition(slices=3, matrix=32))


def _storescu(settings, *paths, calling="ORTHANC", called="MRISR", syntax="-xe"):
    return subprocess.run(
        ["storescu", syntax, "-aet", calling, "-aec", called, "127.0.0.1",
         str(settings.receiver_port), *map(str, paths)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def _associate(settings, contexts, calling="ORTHANC", called="MRISR"):
    ae = AE(ae_title=calling)
    return ae.associate("127.0.0.1", settings.receiver_port, contexts, ae_title=called)


def test_anybody_may_echo(receiver, settings):
    done = subprocess.run(
        ["echoscu", "-aet", "ANYBODY", "-aec", "MRISR", "127.0.0.1", str(settings.receiver_port)],
        timeout=60,
    )
    assert done.returncode == 0


def test_what_is_acknowledged_is_on_disk_and_in_the_records(receiver, settings, sample):
    assert _storescu(settings, *sample.paths).returncode == 0
    series = Series.get()
    assert series.series_instance_uid == sample.series_uid
    assert series.state == State.RECEIVING
    spool = Spool(settings.spool_dir, settings.quarantine_dir, 0)
    kept = [dcmread(path) for path in spool.paths(series)]
    sent = [dcmread(path) for path in sample.paths]
    assert {d.SOPInstanceUID for d in kept} == {d.SOPInstanceUID for d in sent}
    by_uid = {d.SOPInstanceUID: d for d in sent}
    assert all(d.PixelData == by_uid[d.SOPInstanceUID].PixelData for d in kept)
    # Nothing of what came from outside is part of a path.
    assert not any(d.SOPInstanceUID in str(p) for d in sent for p in spool.paths(series))


def test_the_same_instance_twice_is_kept_once(receiver, settings, sample):
    for _ in range(2):
        assert _storescu(settings, sample.paths[0]).returncode == 0
    assert Instance.select().count() == 1
    assert Rejection.select().count() == 0


def test_the_same_instance_is_the_same_whoever_wrote_its_file_meta(
    receiver, settings, sample, tmp_path
):
    """As after an upgrade that writes another file meta information."""
    assert _storescu(settings, sample.paths[0]).returncode == 0
    row = Instance.get()
    path = settings.spool_dir / row.path
    kept = dcmread(path)
    assert kept.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert kept.file_meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    kept.file_meta.ImplementationVersionName = "ANOTHER_1.2"
    kept.save_as(path)
    before = path.read_bytes()
    row.sha256, row.size = hashlib.sha256(before).hexdigest(), len(before)
    row.save()
    assert _storescu(settings, sample.paths[0]).returncode == 0
    assert Rejection.select().count() == 0
    assert Instance.select().count() == 1
    # What came is not kept beside it.
    assert [p.read_bytes() for p in settings.spool_dir.rglob("*.dcm")] == [before]

    altered = dcmread(sample.paths[0])
    altered.PixelData = bytes(len(altered.PixelData))
    altered.save_as(tmp_path / "altered.dcm")
    assert _storescu(settings, tmp_path / "altered.dcm").returncode != 0
    assert Rejection.select().count() == 1


def test_the_same_bytes_in_another_transfer_syntax_are_not_the_same(sample, tmp_path):
    dataset = dcmread(sample.paths[0])
    for name, syntax in (("a", JPEGLossless), ("b", JPEGLosslessSV1), ("c", JPEGLossless)):
        dataset.PixelData = encapsulate([b"\xff\xd8"])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.ImplementationVersionName = f"VERSION_{name}"
        dataset.save_as(tmp_path / name)
    assert hold_the_same(tmp_path / "a", tmp_path / "c")
    assert not hold_the_same(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").write_bytes((tmp_path / "a").read_bytes() + b"\0")
    assert not hold_the_same(tmp_path / "a", tmp_path / "c")
    (tmp_path / "c").write_bytes(b"what is no DICOM file")
    assert not hold_the_same(tmp_path / "a", tmp_path / "c")


def test_the_same_uid_with_other_pixels_goes_to_quarantine(receiver, settings, sample, tmp_path):
    _storescu(settings, sample.paths[0])
    altered = dcmread(sample.paths[0])
    altered.PixelData = bytes(len(altered.PixelData))
    altered.save_as(tmp_path / "altered.dcm")
    with pytest.raises(AssertionError):
        assert _storescu(settings, tmp_path / "altered.dcm").returncode == 0
    rejected = Rejection.get()
    assert "other content" in rejected.reason
    assert (settings.quarantine_dir / rejected.path).is_file()
    spool = Spool(settings.spool_dir, settings.quarantine_dir, 0)
    kept = dcmread(spool.paths(Series.get())[0])
    assert kept.PixelData == dcmread(sample.paths[0]).PixelData


def test_two_versions_at_the_same_time_never_replace_each_other(settings, sample):
    """Whoever wins, the row describes the file, and the other one is in quarantine."""
    import threading

    first = sample.paths[0].read_bytes()
    dataset = dcmread(sample.paths[0])
    dataset.PixelData = bytes(len(dataset.PixelData))
    buffer = BytesIO()
    dataset.save_as(buffer)
    header = screen(sample.paths[0], dataset.SOPClassUID, dataset.SOPInstanceUID)
    barrier = threading.Barrier(2)
    outcomes = []

    def store(encoded):
        spool = Spool(settings.spool_dir, settings.quarantine_dir, 0)
        draft = spool.draft(encoded)
        draft.sync()
        barrier.wait()
        with connection():
            outcomes.append(spool.store(header, draft, "TEST"))

    threads = [threading.Thread(target=store, args=(e,)) for e in (first, buffer.getvalue())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["different", "new"]
    row = Instance.get()
    [kept] = Spool(settings.spool_dir, settings.quarantine_dir, 0).paths(Series.get())
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == row.sha256
    assert len(list(settings.spool_dir.rglob("*.dcm"))) == 1
    assert len(list(settings.quarantine_dir.iterdir())) == 1


def test_an_unknown_calling_title_may_not_store(receiver, settings, sample):
    assert _storescu(settings, sample.paths[0], calling="STRANGER").returncode != 0
    assert Instance.select().count() == 0


def test_nobody_but_the_local_orthanc_is_let_in_by_default(settings, sample):
    assert settings.accepted_ae_titles == (settings.pacs_ae_title,)
    inside = [ipaddress.ip_network(network) for network in settings.accepted_addresses]
    assert all(network.is_loopback for network in inside)
    assert ipaddress.ip_address(settings.receiver_host).is_loopback


def test_an_address_that_is_not_named_is_not_let_in(settings, sample, caplog):
    chosen = settings.model_copy(update={"accepted_addresses": ("127.0.0.7/32",)})
    receiver = Receiver(chosen)
    receiver.start()
    try:
        assert _storescu(settings, sample.paths[0]).returncode != 0
        assert _echo(settings, "127.0.0.1") is False
        assert _echo(settings, "127.0.0.7") is True
    finally:
        receiver.stop()
    assert Instance.select().count() == 0
    assert "connection from 127.0.0.1 closed: it is not in accepted_addresses" in caplog.text


def _echo(settings, source: str) -> bool:
    """Tell whether C-ECHO works from one of our own addresses."""
    ae = AE(ae_title="ORTHANC")
    ae.add_requested_context(Verification)
    association = ae.associate(
        "127.0.0.1", settings.receiver_port, ae_title="MRISR", bind_address=(source, 0)
    )
    if not association.is_established:
        return False
    try:
        return association.send_c_echo().Status == 0x0000
    finally:
        association.release()


def test_a_wrong_called_title_is_rejected(receiver, settings, sample):
    assert _storescu(settings, sample.paths[0], called="OTHER").returncode != 0
    assert Instance.select().count() == 0


def test_other_classes_and_deflated_are_not_offered(receiver, settings):
    contexts = [
        build_context(CTImageStorage, ExplicitVRLittleEndian),
        build_context(MRImageStorage, DeflatedExplicitVRLittleEndian),
    ]
    association = _associate(settings, contexts)
    assert not association.is_established


@pytest.mark.parametrize(
    ("coder", "options"),
    [("dcmcrle", []), ("dcmcjpeg", ["+e1"]), ("dcmcjpls", ["+el"]), ("dcmconv", ["+tb"])],
)
def test_compressed_and_big_endian_instances_are_kept_as_they_came(
    receiver, settings, sample, tmp_path, coder, options
):
    coded = tmp_path / "coded.dcm"
    subprocess.run([coder, *options, str(sample.paths[0]), str(coded)], check=True, timeout=60)
    where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
    assert send_files([coded], where, lambda _: None) == []
    spool = Spool(settings.spool_dir, settings.quarantine_dir, 0)
    kept = dcmread(spool.paths(Series.get())[0])
    assert kept.file_meta.TransferSyntaxUID == dcmread(coded).file_meta.TransferSyntaxUID
    assert (kept.pixel_array == dcmread(sample.paths[0]).pixel_array).all()


def test_jpeg_2000_is_accepted(receiver, settings, shared_data):
    folder = shared_data("series/dcm2nifti_tests") / "dcm2nifti_tests/generic/compressed_j2k/001"
    paths = sorted(folder.glob("*.dcm"))
    where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
    assert send_files(paths, where, lambda _: None) == []
    assert Instance.select().count() == len(paths)


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2.003", "1." + "2" * 70])
def test_a_uid_that_is_none_is_refused_and_quarantined(
    receiver, settings, sample, tmp_path, uid, recwarn
):
    dataset = dcmread(sample.paths[0])
    dataset.SeriesInstanceUID = uid
    dataset.save_as(tmp_path / "odd.dcm")
    where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
    refused = send_files([tmp_path / "odd.dcm"], where, lambda _: None)
    assert len(refused) == 1
    assert "0xC000" in refused[0]
    assert "UID" in Rejection.get().reason
    assert Series.select().count() == 0
    recwarn.clear()


def test_a_full_disk_refuses_before_anything_is_written(settings, sample):
    crowded = settings.model_copy(update={"minimum_free_bytes": 1 << 60})
    receiver = Receiver(crowded)
    receiver.start()
    try:
        where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
        refused = send_files(list(sample.paths[:1]), where, lambda _: None)
    finally:
        receiver.stop()
    assert "0xA700" in refused[0]
    assert Instance.select().count() == 0
    assert not any(settings.spool_dir.rglob("*.dcm"))


def test_drafts_that_somebody_else_removes_meanwhile_are_cleared(settings, monkeypatch):
    spool = Spool(settings.spool_dir, settings.quarantine_dir, 0)
    gone, there = spool.draft(b"gone"), spool.draft(b"there")
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([gone.path, there.path]))
    gone.drop()
    assert spool.clear_drafts() == 2
    assert not there.path.exists()


def test_a_silent_connection_does_not_keep_others_out(receiver, settings, sample):
    import socket

    with socket.create_connection(("127.0.0.1", settings.receiver_port)):
        assert _storescu(settings, sample.paths[0]).returncode == 0
