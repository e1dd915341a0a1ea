"""Attacks below the data set: TCP, PDUs, associations and commands."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.survival.peer import (
    Peer,
    associate_request,
    context,
    echo_command,
    item,
    p_data,
    store_command,
    user_information,
)

__all__ = ["NETWORK_CASES", "Target"]


@dataclass(frozen=True)
class Target:
    """What is attacked, and an honest data set."""

    port: int
    encoded: bytes
    instance: str
    maximum_associations: int


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
        peer.send(b"\x01\x00\xff\xff\xff\xff")
    assert _all_closed(peers)
    return "closed at once"


def claims_4_gib_later(target: Target) -> str:
    """The same within an association."""
    with Peer(target.port) as peer:
        peer.establish()
        peer.send(b"\x04\x00\xff\xff\xff\xff")
        assert peer.closed()
    return "association ended"


def drip_fed(target: Target) -> str:
    """Association requests from 50 sockets, a byte every two seconds."""
    request = associate_request(context(1, MRImageStorage), user_information())
    peers = [Peer(target.port, f"127.0.0.{3 + n // 10}") for n in range(50)]
    for sent in range(5):
        for peer in peers:
            peer.send(request[sent : sent + 1])
        time.sleep(2)
    assert _all_closed(peers)
    return "all closed after 5 s"


def drip_fed_message(target: Target) -> str:
    """A PDU within an association, a byte every two seconds."""
    with Peer(target.port) as peer:
        peer.establish()
        data = p_data(store_command(target.instance), command=True)
        for sent in range(8):
            peer.send(data[sent : sent + 1])
            time.sleep(2)
        assert peer.closed()
    return "association ended after 10 s"


def idle(target: Target) -> str:
    """50 connections that say nothing."""
    peers = [Peer(target.port, f"127.0.0.{3 + n // 10}") for n in range(50)]
    assert _all_closed(peers)
    return "all closed after 5 s"


def health_checks(target: Target) -> str:
    """10,000 connections that close again at once."""
    for _ in range(10_000):
        with contextlib.suppress(ConnectionResetError):
            socket.create_connection(("127.0.0.1", target.port), timeout=60).close()
    return "let go"


def unknown_pdu_first(target: Target) -> str:
    """Connections that start with PDU types that do not exist, or with HTTP."""
    for start in (b"\x09\x00\x00\x00\x00\x04aaaa", b"\xff" * 200, b"GET / HTTP/1.1\r\n\r\n"):
        with Peer(target.port) as peer:
            peer.send(start)
            assert peer.closed()
    return "closed at once"


def unknown_pdu_later(target: Target) -> str:
    """A PDU of an unknown type within an association."""
    with Peer(target.port) as peer:
        peer.establish()
        peer.send(b"\x63\x00\x00\x00\x00\x04aaaa")
        assert peer.closed()
    return "aborted"


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
        with Peer(target.port) as peer:
            peer.send(associate_request(*items))
            peer.closed()
    return "aborted, rejected or dropped"


def many_contexts(target: Target) -> str:
    """200 presentation contexts, even numbers among them (PS3.8 7.1.1.13 allows 128, odd)."""
    contexts = [context(n % 256, MRImageStorage) for n in range(1, 201)]
    with Peer(target.port) as peer:
        peer.send(associate_request(*contexts, user_information()))
        peer.answer()
    return "answered"


def much_user_information(target: Target) -> str:
    """64 KiB of user information."""
    extra = item(0x58, b"\x01\x00" + struct.pack(">H", 65000) + b"u" * 65000 + b"\x00\x00")
    with Peer(target.port) as peer:
        peer.send(associate_request(context(1, MRImageStorage), user_information(extra[:65400])))
        peer.answer()
    return "answered or dropped"


def odd_pdvs(target: Target) -> str:
    """Fragments of length zero, one and beyond their PDU."""
    for length in (0, 1, 2**31):
        with Peer(target.port) as peer:
            peer.establish()
            peer.send(p_data(store_command(target.instance), command=True, length=length))
            peer.send(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
            peer.closed()
    return "association ended"


def unfinished_command(target: Target) -> str:
    """A command that never ends, then the end of the connection."""
    with Peer(target.port) as peer:
        peer.establish()
        peer.send(p_data(store_command(target.instance)[:40], command=True, last=False))
    return "dropped"


def data_before_command(target: Target) -> str:
    """A data set without a command, and commands made of noise."""
    for fragment, command in ((target.encoded[:1000], False), (os.urandom(200), True)):
        with Peer(target.port) as peer:
            peer.establish()
            peer.send(p_data(fragment, command=command))
            peer.send(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
            peer.closed()
    return "association ended"


def abort_in_the_middle(target: Target) -> str:
    """An A-ABORT, and a reset, in the middle of an instance."""
    for abort in (b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00", None):
        with Peer(target.port) as peer:
            peer.establish()
            peer.send(p_data(store_command(generate_uid()), command=True))
            peer.send(p_data(target.encoded[:900], command=False, last=False))
            if abort:
                peer.send(abort)
            else:
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "dropped, nothing kept"


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
    assert answers.count(2) == target.maximum_associations
    assert set(answers[target.maximum_associations :]) == {3}
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
        assert peer.answer() == 3
    for calling in (b"STRANGER", b"OR\nTHANC\r", b"\x1b[31mRED", b"\x00" * 16, b"OR\\CL"):
        with Peer(target.port) as peer:
            request = associate_request(
                context(1, MRImageStorage), user_information(), calling=calling
            )
            peer.send(request)
            if peer.answer() == 2:
                assert peer.store(target.encoded, target.instance) == 0x0124
    return "rejected, or C-STORE answered with 0x0124"


def wrong_syntax(target: Target) -> str:
    """Deflated, a class that is not offered, and a data set in another syntax than agreed."""
    deflated = "1.2.840.10008.1.2.1.99"
    for sop_class, transfer in (
        (MRImageStorage, deflated),
        ("1.2.840.10008.5.1.4.1.1.2", ExplicitVRLittleEndian),
        ("1.2.3", "1.2.3"),
    ):
        with Peer(target.port) as peer:
            request = associate_request(context(1, sop_class, transfer), user_information())
            peer.send(request)
            peer.answer()
            assert peer.store(target.encoded, target.instance) is None
    with Peer(target.port) as peer:
        peer.establish(transfer=ImplicitVRLittleEndian)
        assert peer.store(target.encoded, target.instance) in (0x0000, 0x0111, 0xC000)
    return "not accepted; an unambiguous mixture of syntaxes is read"


def half_a_request(target: Target) -> str:
    """12 connections, each with a part of an association request and then its end."""
    request = associate_request(context(1, MRImageStorage), user_information())
    peers = [Peer(target.port) for _ in range(12)]
    for number, peer in enumerate(peers):
        peer.send(request[: 3 if number % 2 else 60])
        peer.socket.shutdown(socket.SHUT_WR)
    assert _all_closed(peers)
    return "closed at once"


def no_waiting_for_answers(target: Target) -> str:
    """500 instances one after the other, without waiting for an answer."""
    with Peer(target.port) as peer:
        peer.establish()
        for _ in range(500):
            peer.send(p_data(store_command(target.instance), command=True))
            peer.send(p_data(target.encoded, command=False))
        assert peer.closed()
    return "association ended"


def many_echoes(target: Target) -> str:
    """Verification, a hundred times in one association, by somebody unknown."""
    with Peer(target.port) as peer:
        peer.establish("1.2.840.10008.1.1", calling=b"ANYBODY")
        for _ in range(100):
            peer.send(p_data(echo_command(), command=True))
            assert peer.status() == 0
    return "answered"


NETWORK_CASES: list[Callable[[Target], str]] = [
    claims_4_gib,
    claims_4_gib_later,
    half_a_request,
    no_waiting_for_answers,
    drip_fed,
    drip_fed_message,
    idle,
    health_checks,
    unknown_pdu_first,
    unknown_pdu_later,
    bad_item_lengths,
    many_contexts,
    much_user_information,
    odd_pdvs,
    unfinished_command,
    data_before_command,
    abort_in_the_middle,
    too_many_associations,
    too_many_of_one_address,
    wrong_titles,
    wrong_syntax,
    many_echoes,
]
