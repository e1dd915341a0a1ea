"""What is small on the line and large in memory is refused before it is decoded."""

import struct
from contextlib import contextmanager

import psutil
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pynetdicom import AE, build_context
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from mrisr_node.records import CommitmentReport, CommitmentRequest, open_records
from tests.survival.peer import Peer, p_data, store_command

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("lost_sockets"),
]

_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"


@pytest.fixture
def settings(make_settings, tmp_path):
    made = make_settings(
        data_dir=tmp_path / "node", minimum_free_bytes=0, accepted_ae_titles=("SCANNER",),
        accepted_addresses=("127.0.0.0/8",), receiver_processes=1,
    )  # fmt: skip
    open_records(made.database_path)
    return made


@contextmanager
def _association(settings, *contexts, calling="SCANNER"):
    peer = AE(ae_title=calling).associate(
        "127.0.0.1", settings.receiver_port, list(contexts), ae_title="MRISR"
    )
    try:
        yield peer
    finally:
        if peer.is_established:
            peer.release()


@pytest.mark.parametrize("sop_class", [StorageCommitmentPushModel, Verification, MRImageStorage])
def test_deflated_is_accepted_for_nothing(receiver, settings, sop_class):
    deflated = build_context(sop_class, DeflatedExplicitVRLittleEndian)
    echo = build_context(Verification, ImplicitVRLittleEndian)
    with _association(settings, deflated, echo) as peer:
        assert [c.transfer_syntax for c in peer.accepted_contexts] == [[ImplicitVRLittleEndian]]


def test_what_is_no_image_comes_in_plain_little_endian(receiver, settings):
    offered = [
        build_context(sop_class, syntax)
        for sop_class in (StorageCommitmentPushModel, Verification)
        for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
    ]
    with _association(settings, *offered) as peer:
        syntaxes = [c.transfer_syntax[0] for c in peer.accepted_contexts]
    assert syntaxes == 2 * [ImplicitVRLittleEndian, ExplicitVRLittleEndian]


def _command(field, kind):
    """Return the command set of an N-ACTION-RQ (PS3.7 10.3.4) or N-EVENT-REPORT-RQ (10.3.1)."""
    command = Dataset()
    action = field == 0x0130
    names = "RequestedSOP" if action else "AffectedSOP"
    setattr(command, f"{names}ClassUID", StorageCommitmentPushModel)
    setattr(command, f"{names}InstanceUID", StorageCommitmentPushModelInstance)
    setattr(command, "ActionTypeID" if action else "EventTypeID", kind)
    command.CommandField, command.MessageID, command.CommandDataSetType = field, 1, 0
    body = encode(command, True, True)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _information(items, filling=0):
    """Return a Transaction UID, a ReferencedSOPSequence of empty items, and a private element."""
    uid = generate_uid().ljust(64, "\0").encode()
    sequence = _ITEM * items
    encoded = struct.pack("<HHL", 0x0008, 0x1195, len(uid)) + uid
    encoded += struct.pack("<HHL", 0x0008, 0x1199, len(sequence)) + sequence
    return encoded + struct.pack("<HHL", 0x0009, 0x0010, filling) + bytes(filling)


def _ask(settings, field, encoded, calling=b"SCANNER"):
    with Peer(settings.receiver_port) as peer:
        peer.establish(StorageCommitmentPushModel, ImplicitVRLittleEndian, calling)
        peer.send(p_data(_command(field, 1), command=True))
        step = 100_000
        for start in range(0, len(encoded), step):
            last = start + step >= len(encoded)
            peer.send(p_data(encoded[start : start + step], command=False, last=last))
        return peer.status()


def _memory(receiver):
    processes = [psutil.Process(pid) for pid in receiver.processes]
    return sum(p.memory_info().rss for p in processes)


@pytest.mark.parametrize("field", [0x0130, 0x0100], ids=["N-ACTION", "N-EVENT-REPORT"])
def test_more_items_or_bytes_than_a_request_can_need_are_not_decoded(receiver, settings, field):
    assert _ask(settings, field, _information(1)) == 0x0115
    before = _memory(receiver)
    # Decoded, these are 800 MiB.
    assert _ask(settings, field, _information(400_000)) == 0x0213
    assert _ask(settings, field, _information(0, filling=5 * 1024**2)) == 0x0213
    assert _memory(receiver) - before < 64 * 1024**2
    assert CommitmentReport.select().count() == 0


def _told(settings, calling, transaction):
    told, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MRImageStorage, "1.2.3"
    told.TransactionUID, told.ReferencedSOPSequence = transaction, [item]
    context = build_context(StorageCommitmentPushModel)
    with _association(settings, context, calling=calling) as peer:
        status, _ = peer.send_n_event_report(
            told, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    return status.Status, CommitmentRequest.get().answered_at is not None


def test_only_the_pacs_or_a_title_that_is_named_reports(receiver, settings):
    transaction = generate_uid()
    CommitmentRequest.create(transaction_uid=transaction, instances='["1.2.3"]')
    assert _told(settings, "STRANGER", transaction) == (0x0110, False)
    assert _told(settings, settings.pacs_ae_title, transaction) == (0x0000, True)
    CommitmentRequest.update(answered_at=None).execute()
    assert _told(settings, "SCANNER", transaction) == (0x0000, True)


@pytest.mark.parametrize(
    ("sop_class", "calling", "allowed"),
    [
        (MRImageStorage, b"SCANNER", True),
        (MRImageStorage, b"STRANGER", False),
        (StorageCommitmentPushModel, b"SCANNER", False),
    ],
    ids=["an instance", "an instance of a stranger", "no instance"],
)
def test_only_who_may_store_fills_memory_with_a_message(
    receiver, settings, sop_class, calling, allowed
):
    with Peer(settings.receiver_port) as peer:
        peer.establish(sop_class, ExplicitVRLittleEndian, calling)
        peer.send(p_data(store_command("1.2.3"), command=True))
        for _ in range(90):
            peer.send(p_data(bytes(100_000), command=False, last=False))
        peer.send(p_data(bytes(2), command=False))
        # Noise, and too large: looked at, or not even that.
        assert peer.status() == (0xC000 if allowed else None)
