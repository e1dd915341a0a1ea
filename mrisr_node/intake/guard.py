"""What one connection may take: how long for a PDU or a message, and how many bytes.

pynetdicom reads a PDU in one go and waits for its last byte as long as it takes (PS3.8 9.3 gives no
deadline), so a peer that claims four gigabytes, or sends one byte every two seconds, would keep a
thread for ever. The sockets here are ours before pynetdicom gets them: each looks at the bytes that
it hands over and raises an ``OSError`` when its peer takes too much, which is what a broken
connection is for whoever reads from it.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["MAXIMUM_PDU", "Guard", "GuardedSocket", "GuardedTLSSocket", "TooMuch"]

MAXIMUM_PDU = 128 * 1024
"""The length that we announce for P-DATA-TF (PS3.8 D.1), and the most that any PDU may have."""

_FIRST_SECONDS = 5.0
"""For the A-ASSOCIATE-RQ, and the TLS handshake before it."""
_PDU_SECONDS = 10.0
_MESSAGE_SECONDS = 60.0
_SLOWEST = 8 * 1024
"""Bytes a second that a sender may be slow at, beyond the seconds above."""
_MOST_UNANSWERED = 8
"""Messages; without an asynchronous operations window (PS3.7 D.3.3.3) one is what may be."""
_OTHER_MESSAGE = 8 * 1024**2
"""Bytes of a message that may hold no instance: more than any command or request of ours has."""
_ASSOCIATE_RQ, _P_DATA = 0x01, 0x04


class TooMuch(ConnectionAbortedError):
    """A peer takes more time or memory than is its due; the message says of what."""


class Guard:
    """Follows the bytes of one connection, PDU by PDU.

    Parameters
    ----------
    maximum_message
        Bytes of one C-STORE message, which are in memory until it is answered, together with those
        of the messages before it that are not answered; others may have less.
    clock
        Seconds, monotonic.
    """

    def __init__(self, maximum_message: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._maximum_message = maximum_message
        self._clock = clock
        self._pdu_since: float | None = clock()
        self._message_since: float | None = None
        self._message_bytes = 0
        self._may_store = True
        self._header = b""
        self._missing = 6
        self._first = True
        self._unanswered = 0
        self._unanswered_bytes: deque[int] = deque()
        self._counting = threading.Lock()
        self.received_bytes = 0

    def patience(self) -> float:
        """Return for how many seconds the next byte may be waited for.

        Raises
        ------
        TooMuch
            The time for this PDU is over.
        """
        if self._pdu_since is None:
            return _PDU_SECONDS
        left = self._pdu_since + self._allowed() - self._clock()
        if left <= 0:
            what = "association request" if self._first else "PDU"
            raise TooMuch(f"its {what} was not complete in {self._allowed():.0f} s")
        return left

    def _allowed(self) -> float:
        return _FIRST_SECONDS if self._first else _PDU_SECONDS

    def received(self, data: bytes) -> None:
        """Take note of bytes from the peer.

        Raises
        ------
        TooMuch
            A PDU is longer than announced, or a message too long or too slow.
        """
        self.received_bytes += len(data)
        while data:
            if self._pdu_since is None:
                self._pdu_since = self._clock()
            part, data = data[: self._missing], data[self._missing :]
            self._missing -= len(part)
            if len(self._header) < 6:
                self._header += part
                if self._missing == 0:
                    self._begin(*struct.unpack(">BxL", self._header))
            if self._missing == 0:
                self._header, self._missing = b"", 6
                self._pdu_since, self._first = None, False

    def _begin(self, kind: int, length: int) -> None:
        """Look at a PDU's header (PS3.8 9.3.1): its type, and the bytes that follow."""
        if length > MAXIMUM_PDU:
            raise TooMuch(f"a PDU claims {length} bytes; at most {MAXIMUM_PDU} were agreed")
        if self._first and kind != _ASSOCIATE_RQ:
            raise TooMuch("the first PDU is no association request")
        self._missing = length
        if kind != _P_DATA:
            return
        now = self._clock()
        if self._message_since is None and self._unanswered >= _MOST_UNANSWERED:
            # What waits for its turn is in memory.
            raise TooMuch(f"it sends on with {self._unanswered} messages not answered")
        self._message_since = self._message_since or now
        self._message_bytes += length
        if self._message_bytes > self._maximum_message:
            raise TooMuch(
                f"a message has more than {self._maximum_message} bytes (maximum_instance_bytes)"
            )
        if self._message_bytes + self._waiting_bytes() > self._maximum_message:
            raise TooMuch(
                f"a message, and those before it that are not answered, have more than"
                f" {self._maximum_message} bytes (maximum_instance_bytes)"
            )
        if not self._may_store and self._message_bytes > _OTHER_MESSAGE:
            raise TooMuch(
                f"a message that may hold no instance has more than {_OTHER_MESSAGE} bytes"
            )
        if now - self._message_since > _MESSAGE_SECONDS + self._message_bytes / _SLOWEST:
            raise TooMuch(f"a message of {self._message_bytes} bytes was not complete in time")

    def message_holds_no_instance(self) -> None:
        """Take note that the message under way is of a sort that needs little memory."""
        self._may_store = False

    @property
    def in_message(self) -> bool:
        """Whether a message has begun and is not whole."""
        return self._message_since is not None

    def message_ended(self) -> None:
        """Take note that a message is whole: the next one has time and bytes of its own."""
        with self._counting:
            self._unanswered += 1
            self._unanswered_bytes.append(self._message_bytes)
            self._forget_answered()
        self._message_since, self._message_bytes, self._may_store = None, 0, True

    def message_sent(self) -> None:
        """Take note that a message went the other way: an answer, or a request of ours."""
        with self._counting:
            self._unanswered -= 1
            self._forget_answered()

    def _waiting_bytes(self) -> int:
        with self._counting:
            return sum(self._unanswered_bytes)

    def _forget_answered(self) -> None:
        """Drop the bytes of the oldest messages; an answer to a request of ours waits for none."""
        while len(self._unanswered_bytes) > max(self._unanswered, 0):
            self._unanswered_bytes.popleft()


class _Guarded(socket.socket):
    """A socket whose bytes a guard looks at, and whose end somebody is told of, once."""

    guard: Guard | None = None
    told: Callable[[str], None] | None = None
    _why = ""

    def watch(self, guard: Guard, told: Callable[[str], None]) -> None:
        """Set the guard, and what is called with the reason, or "", when the socket closes."""
        self.guard, self.told = guard, told

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return bytes that are the peer's due; raise `TooMuch` where they are not."""
        if self.guard is None:
            return super().recv(bufsize, flags)
        try:
            self.settimeout(self.guard.patience())
            try:
                self._prepare()
                data = super().recv(bufsize, flags)
            except TimeoutError:
                self.guard.patience()  # says which time is over
                raise
            self.guard.received(data)
        except OSError as error:
            self._why = self._why or str(error)
            raise
        return data

    def _prepare(self) -> None:
        """Do what comes before the first byte."""

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        """Send; a peer that reads nothing must not hold a thread."""
        self.settimeout(_PDU_SECONDS)
        return super().send(data, flags)

    def close(self) -> None:
        """Close, and tell."""
        super().close()
        told, self.told = self.told, None
        if told is not None:
            told(self._why)

    def shutdown(self, how: int) -> None:
        """Shut down; one that is gone already is no error, so that closing always follows."""
        try:
            super().shutdown(how)
        except OSError as error:
            self._why = self._why or f"connection lost ({error.strerror})"


class GuardedSocket(_Guarded):
    """A TCP socket with a guard."""


class GuardedTLSSocket(_Guarded, ssl.SSLSocket):  # type: ignore[misc] # parameters' names
    """A TLS socket with a guard; the handshake is part of what the guard gives time for."""

    _shaken = False

    def _prepare(self) -> None:
        if not self._shaken:
            self.do_handshake()
            self._shaken = True
