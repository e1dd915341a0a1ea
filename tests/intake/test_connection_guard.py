"""What one connection may take, byte by byte, by a clock of our own; and by the receiver's."""

import socket
import struct
import time

import pytest
from pydicom.uid import MRImageStorage

from mrisr_node.intake import guard as module
from mrisr_node.intake.guard import MAXIMUM_PDU, Guard, GuardedSocket, TooMuch
from mrisr_node.intake.receiver import Receiver
from mrisr_node.records import open_records
from tests.survival.peer import Peer, p_data, store_command

_MIB = 1024**2


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def guard(clock):
    """The guard of an association that is established."""
    made = Guard(_MIB, clock)
    made.received(_pdu(200, kind=1))
    return made


def _pdu(length, kind=4):
    return struct.pack(">BxL", kind, length) + bytes(length)


def _message(guard, size, step=64 * 1024):
    for _ in range(size // step):
        guard.received(_pdu(step))


def test_a_message_has_maximum_instance_bytes_and_the_next_one_again(guard):
    for _ in range(3):
        _message(guard, _MIB)
        guard.message_ended()
        guard.message_sent()
    _message(guard, _MIB)
    with pytest.raises(TooMuch, match=r"more than 1048576 bytes \(maximum_instance_bytes\)"):
        guard.received(_pdu(1)[:6])


def test_bytes_count_however_they_are_cut(guard):
    data = _pdu(64 * 1024) * 16 + _pdu(1)[:5]
    for start in range(0, len(data), 1009):
        guard.received(data[start : start + 1009])
    with pytest.raises(TooMuch, match="maximum_instance_bytes"):
        guard.received(_pdu(1)[5:])


def test_a_message_that_may_hold_no_instance_has_less(clock):
    guard = Guard(1024 * _MIB, clock)
    guard.received(_pdu(200, kind=1))
    for _ in range(2):
        guard.received(_pdu(100))
        guard.message_holds_no_instance()
        _message(guard, 8 * _MIB - 64 * 1024)
        guard.message_ended()
        guard.message_sent()
    # The next one may be another sort, and is told by its own contexts.
    _message(guard, 9 * _MIB)
    guard.message_ended()
    guard.received(_pdu(100))
    guard.message_holds_no_instance()
    with pytest.raises(TooMuch, match="may hold no instance has more than 8388608 bytes"):
        _message(guard, 8 * _MIB)


def test_where_instances_may_be_small_other_messages_may_not_be_larger(guard):
    guard.message_holds_no_instance()
    with pytest.raises(TooMuch, match="maximum_instance_bytes"):
        _message(guard, 2 * _MIB)


def test_a_slow_message_has_a_minute_and_a_second_for_every_8_kib(guard, clock):
    guard.received(_pdu(64 * 1024))
    clock.now += 60 + 16
    guard.received(_pdu(64 * 1024))  # 128 KiB by now
    clock.now += 1
    with pytest.raises(TooMuch, match="a message of 131073 bytes was not complete in time"):
        guard.received(_pdu(1))


def test_the_time_of_a_message_does_not_run_between_messages(guard, clock):
    for _ in range(3):
        guard.received(_pdu(1000))
        guard.message_ended()
        guard.message_sent()
        clock.now += 3600


def test_a_pdu_has_ten_seconds_from_its_first_byte(guard, clock):
    clock.now += 3600
    assert guard.patience() == 10  # nothing has begun
    guard.received(_pdu(100)[:1])
    clock.now += 6
    guard.received(_pdu(100)[1:50])
    assert guard.patience() == pytest.approx(4)
    clock.now += 4
    with pytest.raises(TooMuch, match="its PDU was not complete in 10 s"):
        guard.patience()


def test_an_association_request_has_five_seconds_from_the_connection(clock):
    guard = Guard(_MIB, clock)
    clock.now += 4
    guard.received(_pdu(200, kind=1)[:10])
    assert guard.patience() == pytest.approx(1)
    clock.now += 1
    with pytest.raises(TooMuch, match="its association request was not complete in 5 s"):
        guard.patience()


def test_a_pdu_is_no_longer_than_was_announced(guard):
    guard.received(_pdu(MAXIMUM_PDU)[:6])
    guard.received(bytes(MAXIMUM_PDU))
    with pytest.raises(TooMuch, match=f"claims {MAXIMUM_PDU + 1} bytes"):
        guard.received(struct.pack(">BxL", 4, MAXIMUM_PDU + 1))


def test_the_first_pdu_asks_for_an_association(clock):
    with pytest.raises(TooMuch, match="no association request"):
        Guard(_MIB, clock).received(_pdu(10))


def test_messages_that_are_not_answered_are_few(guard):
    for _ in range(8):
        guard.received(_pdu(10))
        guard.message_ended()
    with pytest.raises(TooMuch, match="8 messages not answered"):
        guard.received(_pdu(10))


def test_messages_that_are_not_answered_have_the_bytes_of_one(guard):
    for _ in range(3):
        _message(guard, _MIB // 4)
        guard.message_ended()
    _message(guard, _MIB // 4)
    with pytest.raises(TooMuch, match="those before it that are not answered, have more than 1048"):
        guard.received(_pdu(1))


def test_an_answer_gives_its_bytes_back_and_one_to_our_request_takes_none(guard):
    for _ in range(12):
        guard.message_sent()  # a request of ours
        _message(guard, _MIB // 4)
        guard.message_ended()  # the answer
    for _ in range(3):
        _message(guard, _MIB)
        guard.message_ended()
        guard.message_sent()


def test_a_socket_waits_no_longer_than_its_guard(monkeypatch):
    monkeypatch.setattr(module, "_PDU_SECONDS", 0.3)
    ours, theirs = socket.socketpair()
    told = []
    with theirs, GuardedSocket(fileno=ours.detach()) as guarded:
        guarded.watch(Guard(_MIB), told.append)
        theirs.sendall(_pdu(100, kind=1) + _pdu(100)[:7])
        begun, got = time.monotonic(), b""
        while len(got) < 113:
            got += guarded.recv(64)
        with pytest.raises(TooMuch, match="its PDU was not complete"):
            guarded.recv(64)
        assert 0.2 < time.monotonic() - begun < 30
    assert len(told) == 1
    assert "its PDU was not complete" in told[0]


def test_the_receiver_ends_an_association_with_too_large_an_instance(make_settings, tmp_path):
    settings = make_settings(
        data_dir=tmp_path / "node", minimum_free_bytes=0, receiver_processes=1,
        maximum_instance_bytes=_MIB,
    )  # fmt: skip
    open_records(settings.database_path)
    receiver = Receiver(settings)
    receiver.start()
    try:
        for size, status in ((9, 0xC000), (11, None)):
            with Peer(settings.receiver_port) as peer:
                peer.establish(MRImageStorage)
                peer.send(p_data(store_command("1.2.3"), command=True))
                for _ in range(size):
                    peer.send(p_data(bytes(100_000), command=False, last=False))
                peer.send(p_data(bytes(2), command=False))
                assert peer.status() == status
    finally:
        receiver.stop()
