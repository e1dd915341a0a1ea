"""A scripted peer: it speaks the upper layer (PS3.8) byte by byte, and as badly as it is told."""

from __future__ import annotations

import socket
import struct

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom.dsutils import encode

APPLICATION = b"1.2.840.10008.3.1.1.1"
A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ABORT = 2, 3, 7
"""Types of PDU (PS3.8 9.3)."""
CLASS_REFUSED, SYNTAXES_REFUSED = 3, 4
"""Results for a presentation context (PS3.8 9.3.3.2)."""
VERIFICATION = "1.2.840.10008.1.1"


def item(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Return an item of an A-ASSOCIATE PDU (PS3.8 9.3.2); its stated length may be a lie."""
    return struct.pack(">BxH", kind, len(body) if length is None else length) + body


def context(number: int, abstract: str, transfer: str = ExplicitVRLittleEndian) -> bytes:
    """Return a presentation context item with one transfer syntax."""
    body = struct.pack(">Bxxx", number)
    body += item(0x30, abstract.encode()) + item(0x40, transfer.encode())
    return item(0x20, body)


def user_information(extra: bytes = b"") -> bytes:
    """Return the user information item: maximum length and implementation class, and more."""
    body = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.826.0.1.3680043.9.9.9")
    return item(0x50, body + extra)


def associate_request(
    *items: bytes,
    called: bytes = b"MRISR",
    calling: bytes = b"ORTHANC",
    length: int | None = None,
    kind: int = 1,
) -> bytes:
    """Return an A-ASSOCIATE-RQ PDU."""
    body = struct.pack(">Hxx", 1) + called.ljust(16)[:16] + calling.ljust(16)[:16] + bytes(32)
    body += item(0x10, APPLICATION) + b"".join(items)
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def p_data(
    fragment: bytes, *, command: bool, last: bool = True, length: int | None = None
) -> bytes:
    """Return a P-DATA-TF PDU with one fragment on context 1; the PDV's length may be a lie."""
    control = (1 if command else 0) | (2 if last else 0)
    pdv = struct.pack(">BB", 1, control) + fragment
    body = struct.pack(">L", len(pdv) if length is None else length) + pdv
    return struct.pack(">BxL", 4, len(body)) + body


def store_command(instance: str, sop_class: str = MRImageStorage) -> bytes:
    """Return the command set of a C-STORE-RQ (PS3.7 9.3.1)."""
    command = Dataset()
    command.AffectedSOPClassUID = sop_class
    command.CommandField = 0x0001
    command.MessageID = 1
    command.Priority = 0
    command.CommandDataSetType = 0
    command.AffectedSOPInstanceUID = instance
    return _encoded_command(command)


def echo_command() -> bytes:
    """Return the command set of a C-ECHO-RQ (PS3.7 9.3.5)."""
    command = Dataset()
    command.AffectedSOPClassUID = VERIFICATION
    command.CommandField = 0x0030
    command.MessageID = 1
    command.CommandDataSetType = 0x0101
    return _encoded_command(command)


def _encoded_command(command: Dataset) -> bytes:
    body = encode(command, True, True) or b""
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def encoded(dataset: Dataset, transfer: str = ExplicitVRLittleEndian) -> bytes:
    """Return a data set's bytes without file meta information, as a C-STORE carries them."""
    return encode(dataset, transfer == ImplicitVRLittleEndian, True) or b""


class Peer:
    """A connection to the receiver.

    Parameters
    ----------
    port
        Where the receiver listens on loopback.
    source
        Our own address: attackers come from another one than honest senders.
    """

    def __init__(self, port: int, source: str = "127.0.0.2") -> None:
        self.socket = socket.create_connection(
            ("127.0.0.1", port), timeout=60, source_address=(source, 0)
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        """Send, also to somebody who has closed already."""
        try:
            for part in data:
                self.socket.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self) -> int | None:
        """Return the type of the next PDU, or None where the connection was closed."""
        head = self._exactly(6)
        if head is None:
            return None
        kind, length = struct.unpack(">BxL", head)
        self.body = self._exactly(length) or b""
        return int(kind)

    def result(self) -> int:
        """Return the result for the one context of an A-ASSOCIATE-AC that was just received."""
        return self.body[self.body.index(b"\x21\x00") + 6]

    def closed(self) -> bool:
        """Wait for the other side to close, whatever it says before."""
        while self.answer() is not None:
            continue
        return True

    def establish(self, sop_class: str = MRImageStorage, transfer: str = ExplicitVRLittleEndian,
                  calling: bytes = b"ORTHANC") -> None:  # fmt: skip
        """Open an association with one context, number 1."""
        request = associate_request(
            context(1, sop_class, transfer), user_information(), calling=calling
        )
        self.send(request)
        assert self.answer() == 2, "no association"

    def store(self, encoded: bytes, instance: str, sop_class: str = MRImageStorage) -> int | None:
        """Send a data set; return the status, or None where the association was ended."""
        self.send(p_data(store_command(instance, sop_class), command=True))
        step = 16000
        for start in range(0, max(1, len(encoded)), step):
            last = start + step >= len(encoded)
            self.send(p_data(encoded[start : start + step], command=False, last=last))
        return self.status()

    def status(self) -> int | None:
        """Return the status of the response that comes next, or None."""
        if self.answer() != 4:
            return None
        # Group 0000, element 0900, two bytes; the command set is implicit VR little endian.
        place = self.body.find(b"\x00\x00\x00\x09\x02\x00\x00\x00")
        return int(struct.unpack("<H", self.body[place + 8 : place + 10])[0])

    def _exactly(self, length: int) -> bytes | None:
        data = b""
        while len(data) < length:
            try:
                part = self.socket.recv(length - len(data))
            except ConnectionResetError:
                return None
            if not part:
                return None
            data += part
        return data
