"""Instances into the PACS as they are, by Orthanc's own API: what its answers say, and who asks.

STOW-RS is no way to do it: of two instances with one UID Orthanc keeps the first, and answers that
it stored the second. So what it has is looked up before, and compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests

from mrisr_node.durable import is_disk_full
from mrisr_node.errors import DeliveryError, NodeError
from mrisr_node.results.bounded_http import FAILURES, BoundedSession, named

__all__ = [
    "ALREADY_STORED",
    "OTHER_CONTENT",
    "STORED",
    "Comparison",
    "NotKept",
    "Originals",
    "found_in",
    "said_in",
]

STORED, ALREADY_STORED = "Success", "AlreadyStored"
"""What Orthanc says of an instance that it was given: it has it now, or had one of its name."""

OTHER_CONTENT = "here already, with other content"
"""Why an instance is not kept whose UID another one has."""

_FILTERED = "FilteredOut"
_ORTHANC_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{8}){4}")
# Answers to an instance that would be no other later.
_BAD_REQUEST = (400, 406, 409, 415, 422)

_Answer = TypeVar("_Answer")

Comparison = Callable[[Path, Path], bool]
"""Tells whether an instance, and then what the PACS has of its UID, are the same."""


class NotKept(NodeError):
    """The PACS does not take an instance, now or later; the message says why."""


def found_in(answer: Any) -> list[str]:  # noqa: ANN401 - JSON
    """Return Orthanc's names of the instances in its answer to a look-up (``tools/lookup``).

    Of one UID it takes several, of several patients. Where the answer is none, this raises
    ``ValueError``, ``LookupError`` or ``TypeError``.
    """
    return [_orthanc_id(one["ID"]) for one in answer if one["Type"] == "Instance"]


def said_in(answer: Any) -> tuple[str, str]:  # noqa: ANN401 - JSON
    """Return Orthanc's word for what it did with an instance (``instances``), and its name for it.

    It raises as `found_in` does.
    """
    return str(answer["Status"]), _orthanc_id(answer["ID"])


def _orthanc_id(text: object) -> str:
    found = _ORTHANC_ID.fullmatch(str(text))
    if not found:
        raise ValueError("no name that Orthanc gives")
    return found[0]


class Originals:
    """Keeps instances at the PACS, one at a time, and never in memory.

    Parameters
    ----------
    session
        Signed in at Orthanc.
    url
        Of Orthanc.
    same
        Compares; both files are on the disk meanwhile.
    """

    def __init__(self, session: BoundedSession, url: str, same: Comparison) -> None:
        self._session, self._url, self._same = session, url, same

    def keep(self, path: Path, sop_instance_uid: str) -> None:
        """Return once the PACS has an instance as it is in a file.

        Raises
        ------
        NotKept
            It does not take it, now or later, or has another one of the same UID.
        DeliveryError
            It cannot be reached, takes too long, or cannot store it now.
        """
        there = self._copies(sop_instance_uid)
        if not there:
            status, orthanc_id = self._give(path)
            if status == STORED:
                return
            if status == _FILTERED:
                raise NotKept("the PACS refused it: its filter")
            if status != ALREADY_STORED:
                raise DeliveryError("the PACS did not store an image")
            there = [orthanc_id]  # by somebody else meanwhile
        if not any(self._is(path, one) for one in there):
            raise NotKept(OTHER_CONTENT)

    def _copies(self, sop_instance_uid: str) -> list[str]:
        def ask() -> list[str]:
            answer = self._session.post(f"{self._url}/tools/lookup", data=sop_instance_uid)
            answer.raise_for_status()
            return found_in(answer.json())

        return _asked(ask)

    def _give(self, path: Path) -> tuple[str, str]:
        def ask() -> tuple[str, str]:
            headers = {"Content-Type": "application/dicom"}
            with path.open("rb") as file:
                answer = self._session.post(f"{self._url}/instances", data=file, headers=headers)
            if answer.status_code in _BAD_REQUEST:
                raise NotKept(f"the PACS refused it: HTTP {answer.status_code}")
            answer.raise_for_status()
            return said_in(answer.json())

        return _asked(ask)

    def _is(self, path: Path, orthanc_id: str) -> bool:
        copy, url = path.with_suffix(".there"), f"{self._url}/instances/{orthanc_id}/file"
        try:
            _asked(lambda: self._session.download(url, copy))
            return self._same(path, copy)
        finally:
            copy.unlink(missing_ok=True)


def _asked(ask: Callable[[], _Answer]) -> _Answer:
    """Return what a question brings; it may be asked twice."""
    try:
        try:
            return ask()
        except requests.Timeout:
            raise
        except requests.ConnectionError:
            # Orthanc closes what is idle for a second, and that may be in this moment.
            return ask()
    except FAILURES as error:
        if is_disk_full(error):
            raise
        raise DeliveryError(f"the PACS cannot be asked: {named(error)}") from error
