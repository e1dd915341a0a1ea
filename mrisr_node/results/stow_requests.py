"""STOW-RS (PS3.18 10.5) with files as they are: what a request holds, and what an answer says."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Message", "batches", "refused_in"]

# Instances a request: enough to be quick, few enough that a request fits in memory.
_BATCH = 24
_BATCH_BYTES = 64 * 1024**2

_FAILED, _REASON, _UID = "00081198", "00081197", "00081155"


def batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Divide files into requests that fit in memory; a large one goes alone."""
    batch: list[Path] = []
    size = 0
    for path in paths:
        here = path.stat().st_size
        if batch and (len(batch) == _BATCH or size + here > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += here
    if batch:
        yield batch


class Message:
    """A request of whole files (RFC 2387): encoded anew, some would be other bytes, or none.

    Parameters
    ----------
    paths
        DICOM files, which are read now.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        parts = [head + path.read_bytes() + b"\r\n" for path in paths]
        self.body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
        self.headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }


def refused_in(answer: Mapping[str, Any]) -> dict[str, int]:
    """Return the reasons that an answer in DICOM JSON gives, by SOP Instance UID.

    It raises ``ValueError``, ``LookupError``, ``TypeError`` or ``AttributeError`` where the answer
    is none.
    """
    return {
        str(one.get(_UID, {}).get("Value", ["?"])[0]): int(
            one.get(_REASON, {}).get("Value", [0])[0]
        )
        for one in answer.get(_FAILED, {}).get("Value", [])
    }
