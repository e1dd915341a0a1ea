"""Attacks by bytes, PDUs and commands."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from pydicom.uid import MRImageStorage, generate_uid

from tests.survival.network_attack import (
    AT_ONCE,
    PATIENCE,
    PDU_DEADLINE,
    REQUEST_DEADLINE,
    NetworkCase,
    Target,
    all_closed,
    within,
)
from tests.survival.peer import (
    A_ABORT,
    Peer,
    associate_request,
    context,
    echo_command,
    item,
    p_data,
    store_command,
    user_information,
)

__all__ = ["MESSAGE_CASES"]

_FOUR_GIB = b"\x01\x00\xff\xff\xff\xff"


def claims_4_gib(target: Target) -> str:
    """12 connections, each with a PDU header that claims 4 GiB and nothing after it."""
    peers = [Peer(target.port) for _ in range(12)]
    for peer in peers:
        peer.send(_FOUR_GIB)
    with within(AT_ONCE):
        assert all_closed(peers)
    return "closed at once"


def claims_4_gib_later(target: Target) -> str:
    """The same within an association."""
    with Peer(target.port) as peer:
        peer.establish()
        peer.send(b"\x04" + _FOUR_GIB[1:])
        with within(AT_ONCE):
            assert peer.closed()
    return "association ended at once"


def _dripped(target: Target, data: bytes) -> str:
    peers = [Peer(target.port, f"127.0.0.{3 + n // 10}") for n in range(50)]
    with within(PATIENCE * REQUEST_DEADLINE):
        for sent in range(3):
            for peer in peers:
                peer.send(data[sent : sent + 1])
            time.sleep(2)
        assert all_closed(peers)
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
    with within(PATIENCE * PDU_DEADLINE):
        for sent in range(6):
            for peer, data in zip(peers, streams, strict=True):
                peer.send(data[sent : sent + 1])
            time.sleep(2)
        assert all_closed(peers)
    return "associations ended after 10 s"


def idle(target: Target) -> str:
    """50 connections that say nothing."""
    peers = [Peer(target.port, f"127.0.0.{3 + n // 10}") for n in range(50)]
    with within(PATIENCE * REQUEST_DEADLINE):
        assert all_closed(peers)
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
            with within(AT_ONCE):
                assert peer.closed()
    return "closed at once"


def unknown_pdu_later(target: Target) -> str:
    """A PDU of an unknown type within an association."""
    with Peer(target.port) as peer:
        peer.establish()
        peer.send(b"\x63\x00\x00\x00\x00\x04aaaa")
        with within(AT_ONCE):
            assert peer.answer() == A_ABORT
        with within(PATIENCE * PDU_DEADLINE):
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
        with Peer(target.port) as peer, within(AT_ONCE):
            peer.send(associate_request(*items))
            assert peer.answer() is None
    return "closed at once"


def odd_pdvs(target: Target) -> str:
    """Fragments of length zero, one and beyond their PDU."""
    for length in (0, 1, 2**31):
        with Peer(target.port) as peer, within(AT_ONCE):
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
        with within(AT_ONCE):
            assert peer.closed()
    return "association ended at once"


def data_before_command(target: Target) -> str:
    """A data set without a command."""
    with Peer(target.port) as peer, within(AT_ONCE):
        peer.establish()
        peer.send(p_data(target.instance[0][:1000], command=False))
        assert peer.answer() == A_ABORT
    return "aborted at once"


def noise_as_command(target: Target) -> str:
    """A command set that is noise."""
    with Peer(target.port) as peer, within(AT_ONCE):
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
    with Peer(target.port) as peer, within(AT_ONCE):
        peer.establish()
        peer.send(p_data(store_command(generate_uid()), command=True))
        peer.send(p_data(echo_command(), command=True))
        assert peer.status() == 0x0000
        peer.send(p_data(data, command=False))
        assert peer.answer() == A_ABORT
    assert target.kept() == before + 1
    return "the later command counts; aborted at once where data have none"


def no_waiting_for_answers(target: Target) -> str:
    """500 instances one after the other, without waiting for an answer."""
    data, instance = target.instance
    with Peer(target.port) as peer:
        peer.establish()
        with within(PATIENCE * PDU_DEADLINE):
            for _ in range(500):
                peer.send(p_data(store_command(instance), command=True))
                peer.send(p_data(data, command=False))
            assert peer.closed()
    return "association ended"


_NO_MESSAGE = "aborted: it sent what is no PDU, or no message, of an association"
_NO_DICOM = "closed: it sent an association request that cannot be read"
_UNFINISHED = "its last message was unfinished, or could not be read"

MESSAGE_CASES = [
    NetworkCase(claims_4_gib, "closed: it claims an association request of 4294967301 bytes"),
    NetworkCase(claims_4_gib_later, "a PDU claims 4294967295 bytes"),
    NetworkCase(no_waiting_for_answers, "it sends on with 8 messages not answered"),
    NetworkCase(drip_fed, "closed: it "),
    NetworkCase(drip_fed_4_gib, "closed: it "),
    NetworkCase(drip_fed_message, "its PDU was not complete in 10 s"),
    NetworkCase(idle, "closed: it "),
    NetworkCase(health_checks, None),  # ten thousand lines would be an attack on the disk
    NetworkCase(unknown_pdu_first, "closed: it does not start with an association request"),
    NetworkCase(unknown_pdu_later, _NO_MESSAGE),
    NetworkCase(bad_item_lengths, _NO_DICOM),
    NetworkCase(odd_pdvs, _NO_MESSAGE),
    NetworkCase(unfinished_command, _UNFINISHED),
    NetworkCase(data_before_command, _NO_MESSAGE),
    NetworkCase(noise_as_command, _UNFINISHED),
    NetworkCase(command_out_of_order, _NO_MESSAGE),
]
