"""Attacks below the data set: TCP, PDUs, associations and commands."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.survival.object_cases import honest
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
    encoded,
    item,
    p_data,
    store_command,
    user_information,
)

__all__ = ["NETWORK_CASES", "NetworkCase", "Target"]


AT_ONCE = 5.0
"""Seconds; all of the deadlines below are longer, or as long."""
REQUEST_DEADLINE = 5.0
PDU_DEADLINE = 10.0
# How much later than its deadline something may come: a bound, and no measurement.
_PATIENCE = 3

VERIFICATION = "1.2.840.10008.1.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
_FOUR_GIB = b"\x01\x00\xff\xff\xff\xff"
_RELEASE = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
_ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Parameters
    ----------
    path
        An honest file.
    kept
        Returns how many files the receiver has kept, those in quarantine included.
    """

    port: int
    path: Path
    maximum_associations: int
    kept: Callable[[], int]

    @property
    def instance(self) -> tuple[bytes, str]:
        """An honest data set and its SOP Instance UID, another one each time."""
        dataset = honest(str(self.path))
        return encoded(dataset), str(dataset.SOPInstanceUID)


@dataclass(frozen=True)
class NetworkCase:
    """An attack, which returns in words what happened, and what the log has to say of it.

    Parameters
    ----------
    logged
        Is found in a line behind the attacker's address; None where there must be no line.
    """

    attack: Callable[[Target], str]
    logged: str | None

    @property
    def name(self) -> str:
        """The name for a test."""
        return self.attack.__name__


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds, f"not within {seconds} s"


def _all_closed(peers: list[Peer]) -> bool:
    """Wait for the receiver to close them all, and close our side."""
    closed = [peer.closed() for peer in peers]
    for peer in peers:
        peer.socket.close()
    return all(closed)


def claims_4_gib(target: Target) -> str:
    """12 connections, each with a PDU header that claims 4 GiB and nothing after it."""
    peers = [Peer(target.port) for _ in range(12)]
    for peer in peers:
        peer.send(_FOUR_GIB)
    with _within(AT_ONCE):
        assert _all_closed(peers)
    return "closed at once"


def claims_4_gib_later(target: Target) -> str:
    """The same within an association."""
    with Peer(target.port) as peer:
        peer.establish()
        peer.send(b"\x04" + _FOUR_GIB[1:])
        with _within(AT_ONCE):
            assert peer.closed()
    return "association ended at once"


def _dripped(target: Target, data: bytes) -> str:
    peers = [Peer(target.port, f"127.0.0.{3 + n // 10}") for n in range(50)]
    with _within(_PATIENCE * REQUEST_DEADLINE):
        for sent in range(3):
            for peer in peers:
                peer.send(data[sent : sent + 1])
            time.sleep(2)
        assert _all_closed(peers)
    return "all closed after 5 s"


def drip_fed(target: Target) -> str:
    """Association requests from 50 sockets, a byte every two seconds."""
    return _dripped(target, associate_request(context(1, MRImageStorage), user_information()))


def drip_fed_4_gib(target: Target) -> str:
    """The header that claims 4 GiB from 50 sockets, a byte every two seconds."""
    return _dripped(target, _FOUR_GIB)


def drip_fed_message(target: Target) -> str:
    """A PDU within an association, and a header that claims 4 GiB, a byte every two seconds."""
    honest_one = p_data(store_command(generate_uid()), command=True)
    streams = honest_one, b"\x04" + _FOUR_GIB[1:]
    peers = [Peer(target.port) for _ in streams]
    for peer in peers:
        peer.establish()
    with _within(_PATIENCE * PDU_DEADLINE):
        for sent in range(6):
            for peer, data in zip(peers, streams, strict=True):
                peer.send(data[sent : sent + 1])
            time.sleep(2)
        assert _all_closed(peers)
    return "associations ended after 10 s"


def idle(target: Target) -> str:
    """50 connections that say nothing."""
    peers = [Peer(target.port, f"127.0.0.{3 + n // 10}") for n in range(50)]
    with _within(_PATIENCE * REQUEST_DEADLINE):
        assert _all_closed(peers)
    return "all closed after 5 s"


def health_checks(target: Target) -> str:
    """10,000 connections that close again at once."""
    for _ in range(10_000):
        with contextlib.suppress(ConnectionResetError):
            socket.create_connection(("127.0.0.1", target.port), timeout=60).close()
    return "let go, without a line"


def unknown_pdu_first(target: Target) -> str:
    """Connections that start with PDU types that do not exist, or with HTTP."""
    for start in (b"\x09\x00\x00\x00\x00\x04aaaa", b"\xff" * 200, b"GET / HTTP/1.1\r\n\r\n"):
        with Peer(target.port) as peer:
            peer.send(start)
            with _within(AT_ONCE):
                assert peer.closed()
    return "closed at once"


def unknown_pdu_later(target: Target) -> str:
    """A PDU of an unknown type within an association."""
    with Peer(target.port) as peer:
        peer.establish()
        peer.send(b"\x63\x00\x00\x00\x00\x04aaaa")
        with _within(AT_ONCE):
            assert peer.answer() == A_ABORT
        with _within(_PATIENCE * PDU_DEADLINE):
            assert peer.closed()
    return "aborted at once, closed after 10 s"


def bad_item_lengths(target: Target) -> str:
    """Association requests whose items are longer or shorter than they say."""
    broken = item(0x20, context(1, MRImageStorage)[4:], length=0xFFFF)
    for items in (
        (broken, user_information()),
        (context(1, MRImageStorage)[:9], user_information()),
        (context(1, MRImageStorage), item(0x50, b"\x51\x00\x00\x04", length=3)),
        (item(0x99, b"x" * 40),),
        (),
    ):
        with Peer(target.port) as peer, _within(AT_ONCE):
            peer.send(associate_request(*items))
            assert peer.answer() is None
    return "closed at once"


def many_contexts(target: Target) -> str:
    """200 presentation contexts, even numbers among them (PS3.8 7.1.1.13 allows 128, odd)."""
    contexts = [context(n % 256, MRImageStorage) for n in range(1, 201)]
    with Peer(target.port) as peer, _within(AT_ONCE):
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


def odd_pdvs(target: Target) -> str:
    """Fragments of length zero, one and beyond their PDU."""
    for length in (0, 1, 2**31):
        with Peer(target.port) as peer, _within(AT_ONCE):
            peer.establish()
            peer.send(p_data(store_command(generate_uid()), command=True, length=length))
            assert peer.answer() == A_ABORT
    return "aborted at once"


def unfinished_command(target: Target) -> str:
    """A command that never ends, then the end of the connection."""
    with Peer(target.port) as peer:
        peer.establish()
        peer.send(p_data(store_command(generate_uid())[:40], command=True, last=False))
        peer.socket.shutdown(socket.SHUT_WR)
        with _within(AT_ONCE):
            assert peer.closed()
    return "association ended at once"


def data_before_command(target: Target) -> str:
    """A data set without a command."""
    with Peer(target.port) as peer, _within(AT_ONCE):
        peer.establish()
        peer.send(p_data(target.instance[0][:1000], command=False))
        assert peer.answer() == A_ABORT
    return "aborted at once"


def noise_as_command(target: Target) -> str:
    """A command set that is noise."""
    with Peer(target.port) as peer, _within(AT_ONCE):
        peer.establish()
        peer.send(p_data(os.urandom(200), command=True))
        assert peer.closed()
    return "association ended at once"


def command_out_of_order(target: Target) -> str:
    """Another command where the data set of a valid one belongs, and data after an echo."""
    before = target.kept()
    data, instance = target.instance
    with Peer(target.port) as peer:
        peer.establish()
        peer.send(p_data(store_command(generate_uid()), command=True))
        # The later of two commands counts, and its data set is its own.
        assert peer.store(data, instance) == 0x0000
    assert target.kept() == before + 1
    with Peer(target.port) as peer, _within(AT_ONCE):
        peer.establish()
        peer.send(p_data(store_command(generate_uid()), command=True))
        peer.send(p_data(echo_command(), command=True))
        assert peer.status() == 0x0000
        peer.send(p_data(data, command=False))
        assert peer.answer() == A_ABORT
    assert target.kept() == before + 1
    return "the later command counts; aborted at once where data have none"


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
                with _within(AT_ONCE):
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
        with Peer(target.port) as peer, _within(AT_ONCE):
            request = associate_request(
                context(1, MRImageStorage), user_information(), calling=calling
            )
            peer.send(request)
            assert peer.answer() is None
    return "rejected; C-STORE answered with 0x0124; closed at once"


def _nothing_accepted(target: Target, sop_class: str, transfer: str) -> None:
    """Propose one context, have it refused, and send a command on it nevertheless."""
    with Peer(target.port) as peer, _within(AT_ONCE):
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
    with _within(AT_ONCE):
        assert _all_closed(peers)
    return "closed at once"


def no_waiting_for_answers(target: Target) -> str:
    """500 instances one after the other, without waiting for an answer."""
    data, instance = target.instance
    with Peer(target.port) as peer:
        peer.establish()
        with _within(_PATIENCE * PDU_DEADLINE):
            for _ in range(500):
                peer.send(p_data(store_command(instance), command=True))
                peer.send(p_data(data, command=False))
            assert peer.closed()
    return "association ended"


def many_echoes(target: Target) -> str:
    """Verification, a hundred times in one association, by somebody unknown."""
    with Peer(target.port) as peer:
        peer.establish(VERIFICATION, calling=b"ANYBODY")
        for _ in range(100):
            peer.send(p_data(echo_command(), command=True))
            assert peer.status() == 0
    return "answered"


_NO_MESSAGE = "aborted: it sent what is no PDU, or no message, of an association"
_NO_DICOM = "closed: it sent an association request that cannot be read"
_NOTHING_ACCEPTED = "aborted: none of what it proposed is accepted"
_UNFINISHED = "its last message was unfinished, or could not be read"

NETWORK_CASES = [
    NetworkCase(claims_4_gib, "closed: it claims an association request of 4294967301 bytes"),
    NetworkCase(claims_4_gib_later, "a PDU claims 4294967295 bytes"),
    NetworkCase(half_a_request, "closed: it ended in the middle of its association request"),
    NetworkCase(no_waiting_for_answers, "it sends on with 8 messages not answered"),
    NetworkCase(drip_fed, "closed: it "),
    NetworkCase(drip_fed_4_gib, "closed: it "),
    NetworkCase(drip_fed_message, "its PDU was not complete in 10 s"),
    NetworkCase(idle, "closed: it "),
    NetworkCase(health_checks, None),  # ten thousand lines would be an attack on the disk
    NetworkCase(unknown_pdu_first, "closed: it does not start with an association request"),
    NetworkCase(unknown_pdu_later, _NO_MESSAGE),
    NetworkCase(bad_item_lengths, _NO_DICOM),
    NetworkCase(many_contexts, _NO_DICOM),
    NetworkCase(much_user_information, "ended without a release"),
    NetworkCase(odd_pdvs, _NO_MESSAGE),
    NetworkCase(unfinished_command, _UNFINISHED),
    NetworkCase(data_before_command, _NO_MESSAGE),
    NetworkCase(noise_as_command, _UNFINISHED),
    NetworkCase(command_out_of_order, _NO_MESSAGE),
    NetworkCase(abort_in_the_middle, "aborted by its peer"),
    NetworkCase(too_many_associations, r"rejected: too many associations \(maximum_associations\)"),
    NetworkCase(too_many_of_one_address, "closed: it has maximum_associations_per_address already"),
    NetworkCase(wrong_titles, "rejected: it called 'SOMEBODY'"),
    NetworkCase(wrong_syntax, _NOTHING_ACCEPTED),
    NetworkCase(deflated_commitment, _NOTHING_ACCEPTED),
    NetworkCase(mixed_syntax, "answered 1 × 0x0000"),
    NetworkCase(many_echoes, "answered 100 × 0x0000"),
]
