"""What a C-STORE is answered with; the conformance statement is made from this list."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["StoreStatus"]


class StoreStatus(IntEnum):
    """A status of C-STORE (PS3.4 B.2.3, PS3.7 C)."""

    meaning: str
    """When it is given, in words."""

    def __new__(cls, value: int, meaning: str) -> StoreStatus:
        """Return the member; its value is the status."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    SUCCESS = (
        0x0000,
        "the instance is durable: file and folder synced, record committed; or it was here already,"
        " with the same bytes in the same transfer syntax",
    )
    DUPLICATE = (
        0x0111,
        "the same SOP Instance UID came before with other content; the first is kept, this one is"
        " in quarantine",
    )
    NOT_AUTHORISED = (0x0124, "the calling AE title may not store")
    OUT_OF_RESOURCES = (
        0xA700,
        "free space below `minimum_free_bytes`, or the instance could not be kept (disk, records);"
        " send it again",
    )
    MISMATCH = (
        0xA900,
        "SOP class or instance UID differ between command and dataset; it is in quarantine",
    )
    CANNOT_UNDERSTAND = (
        0xC000,
        "the dataset cannot be read, a UID is none (PS3.5 9.1), there is more before or after the"
        " pixel data than the limits above allow, or the pixel data are missing, shorter than the"
        " header says, too large once decoded, decode to something else than it says, or cannot be"
        " decoded; or the process that looked at it crashed or took too long; it is in quarantine",
    )
