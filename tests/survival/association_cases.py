"""Attacks on associations: who asks, for what, and how often."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.survival.network_attack import (
    AT_ONCE,
    NetworkCase,
    Target,
    all_closed,
    within,
)
from tests.survival.peer import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    CLASS_REFUSED,
    SYNTAXES_REFUSED,
    Peer,
    associate_request,
    context,
    echo_command,
    item,
    p_data,
    store_command,
    user_information,
)

__all__ = ["ASSOCIATION_CASES"]

VERIFICATION = "1.2.840.10008.1.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
_RELEASE = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
_ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"


def many_contexts(target: Target) -> str:
    """200 presentation contexts, even numbers among them (PS3.8 7.1.1.13 allows 128, odd)."""
    contexts = [context(n % 256, MRImageStorage) for n in range(1, 201)]
    with Peer(target.port) as peer, within(AT_ONCE):
        peer.send(associate_request(*contexts, user_information()))
        assert peer.answer() is None
    contexts = [context(n, MRImageStorage) for n in range(1, 256, 2)]
    with Peer(target.port) as peer:
        peer.send(associate_request(*contexts, user_information()))
        assert peer.answer() == A_ASSOCIATE_AC
        peer.send(_RELEASE)
        assert peer.closed()
    return "closed at once; 128 odd ones are accepted"


def much_user_information(target: Target) -> str:
    """64 KiB of user information."""
    extra = item(0x58, b"\x01\x00" + struct.pack(">H", 65000) + b"u" * 65000 + b"\x00\x00")
    with Peer(target.port) as peer:
        peer.send(associate_request(context(1, MRImageStorage), user_information(extra[:65400])))
        assert peer.answer() == A_ASSOCIATE_AC
    return "accepted, and not looked at"


def abort_in_the_middle(target: Target) -> str:
    """An A-ABORT, and a reset, in the middle of an instance."""
    before = target.kept()
    data, instance = target.instance
    for abort in (_ABORT, None):
        with Peer(target.port) as peer:
            peer.establish()
            peer.send(p_data(store_command(instance), command=True))
            peer.send(p_data(data[:900], command=False, last=False))
            if abort:
                peer.send(abort)
                with within(AT_ONCE):
                    assert peer.closed()
            else:
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(1)  # nothing tells a peer that is gone when the receiver has done with it
    assert target.kept() == before
    return "association ended at once, nothing kept"


def too_many_associations(target: Target) -> str:
    """More associations than are allowed, from several addresses."""
    peers = []
    answers = []
    for n in range(target.maximum_associations + 4):
        peer = Peer(target.port, f"127.0.0.{10 + n}")
        peer.send(associate_request(context(1, MRImageStorage), user_information()))
        answers.append(peer.answer())
        peers.append(peer)
    for peer in peers:
        peer.socket.close()
    assert answers.count(A_ASSOCIATE_AC) == target.maximum_associations
    assert set(answers[target.maximum_associations :]) == {A_ASSOCIATE_RJ}
    return "rejected: local limit exceeded"


def too_many_of_one_address(target: Target) -> str:
    """More connections from one address than it may have."""
    peers = [Peer(target.port, "127.0.0.9") for _ in range(40)]
    closed = 0
    for peer in peers:
        peer.socket.settimeout(2)
        with contextlib.suppress(TimeoutError):
            closed += peer.closed()
    for peer in peers:
        peer.socket.close()
    assert closed >= 20
    return "those above the limit closed at once"


def wrong_titles(target: Target) -> str:
    """A called title that is not ours, calling titles unknown and with control characters."""
    with Peer(target.port) as peer:
        request = associate_request(
            context(1, MRImageStorage), user_information(), called=b"SOMEBODY"
        )
        peer.send(request)
        assert peer.answer() == A_ASSOCIATE_RJ
    with Peer(target.port) as peer:
        peer.establish(calling=b"STRANGER")
        assert peer.store(*target.instance) == 0x0124
    for calling in (b"OR\nTHANC\r", b"\x1b[31mRED", b"\x00" * 16, b"OR\\CL"):
        with Peer(target.port) as peer, within(AT_ONCE):
            request = associate_request(
                context(1, MRImageStorage), user_information(), calling=calling
            )
            peer.send(request)
            assert peer.answer() is None
    return "rejected; C-STORE answered with 0x0124; closed at once"


def _nothing_accepted(target: Target, sop_class: str, transfer: str) -> None:
    """Propose one context, have it refused, and send a command on it nevertheless."""
    with Peer(target.port) as peer, within(AT_ONCE):
        request = associate_request(context(1, sop_class, transfer), user_information())
        peer.send(request)
        assert peer.answer() == A_ASSOCIATE_AC
        assert peer.result() in (CLASS_REFUSED, SYNTAXES_REFUSED)
        peer.send(p_data(store_command(generate_uid(), sop_class), command=True))
        peer.send(p_data(target.instance[0], command=False))
        assert peer.answer() == A_ABORT


def wrong_syntax(target: Target) -> str:
    """Deflated, a class that is not offered, and a syntax that does not exist."""
    _nothing_accepted(target, MRImageStorage, DEFLATED)
    _nothing_accepted(target, "1.2.840.10008.5.1.4.1.1.2", ExplicitVRLittleEndian)
    _nothing_accepted(target, "1.2.3", "1.2.3")
    return "context refused; aborted at once when it is used"


def deflated_commitment(target: Target) -> str:
    """Storage Commitment, deflated."""
    _nothing_accepted(target, "1.2.840.10008.1.20.1", DEFLATED)
    return "context refused; aborted at once when it is used"


def mixed_syntax(target: Target) -> str:
    """A data set in explicit VR where implicit VR was agreed."""
    with Peer(target.port) as peer:
        peer.establish(transfer=ImplicitVRLittleEndian)
        assert peer.store(*target.instance) == 0x0000
    return "stored: it can be read, without a doubt"


def half_a_request(target: Target) -> str:
    """12 connections, each with a part of an association request and then its end."""
    request = associate_request(context(1, MRImageStorage), user_information())
    peers = [Peer(target.port) for _ in range(12)]
    for number, peer in enumerate(peers):
        peer.send(request[: 3 if number % 2 else 60])
        peer.socket.shutdown(socket.SHUT_WR)
    with within(AT_ONCE):
        assert all_closed(peers)
    return "closed at once"


def many_echoes(target: Target) -> str:
    """Verification, a hundred times in one association, by somebody unknown."""
    with Peer(target.port) as peer:
        peer.establish(VERIFICATION, calling=b"ANYBODY")
        for _ in range(100):
            peer.send(p_data(echo_command(), command=True))
            assert peer.status() == 0
    return "answered"


_NO_DICOM = "closed: it sent an association request that cannot be read"
_NOTHING_ACCEPTED = "aborted: none of what it proposed is accepted"

ASSOCIATION_CASES = [
    NetworkCase(half_a_request, "closed: it ended in the middle of its association request"),
    NetworkCase(many_contexts, _NO_DICOM),
    NetworkCase(much_user_information, "ended without a release"),
    NetworkCase(abort_in_the_middle, "aborted by its peer"),
    NetworkCase(too_many_associations, r"rejected: too many associations \(maximum_associations\)"),
    NetworkCase(too_many_of_one_address, "closed: it has maximum_associations_per_address already"),
    NetworkCase(wrong_titles, "rejected: it called 'SOMEBODY'"),
    NetworkCase(wrong_syntax, _NOTHING_ACCEPTED),
    NetworkCase(deflated_commitment, _NOTHING_ACCEPTED),
    NetworkCase(mixed_syntax, "answered 1 × 0x0000"),
    NetworkCase(many_echoes, "answered 100 × 0x0000"),
]
