"""What was refused at the door: looked at, taken in after all, or deleted.

An object is known by the first digits of its digest: a row's number would go to another object once
it is deleted. They are looked for in the records alone, and only a name that the spool gave leads
to a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from mrisr_node import records
from mrisr_node.errors import NodeError
from mrisr_node.intake.header_facts import header_facts
from mrisr_node.intake.screener import Screener
from mrisr_node.intake.screening import Rejected
from mrisr_node.intake.spool import Spool, StoreOutcome
from mrisr_node.intake.statuses import StoreStatus
from mrisr_node.records import Instance, Rejection
from mrisr_node.settings import Settings

__all__ = ["NotInQuarantine", "Quarantine", "Quarantined", "Release"]

_NAME = re.compile(r"[0-9a-f]{40}\.dcm")
_KEY = re.compile(r"[0-9a-f]{8,40}")
_SHOWN = 16


class NotInQuarantine(NodeError):
    """There is no such object in quarantine, or not any more."""


@dataclass(frozen=True)
class Quarantined:
    """An object in quarantine, and why it is there."""

    key: str
    """The first digits of its SHA-256."""
    at: float
    """When it was refused, seconds since the epoch."""
    reason: str
    sender: str
    """Calling AE title."""
    address: str
    """Of the sender, where it is known."""
    size: int | None
    """Bytes; None where the file is gone."""


@dataclass(frozen=True)
class Release:
    """What came of the attempt to take an object in."""

    released: bool
    """It is in the spool now, and no longer in quarantine."""
    outcome: str
    """In words."""
    series: int | None = None
    """The record of the series that it belongs to."""


class Quarantine:
    """The objects in quarantine.

    Parameters
    ----------
    settings
        Where it lies, and where the spool is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.quarantine_dir

    def count(self) -> int:
        """Return how many objects there are."""
        return int(Rejection.select().count())

    def entries(self, limit: int = 100, offset: int = 0) -> list[Quarantined]:
        """Return the objects, newest first."""
        rows = Rejection.select().order_by(Rejection.at.desc(), Rejection.id.desc())
        return [self._entry(row) for row in rows.limit(limit).offset(offset)]

    def entry(self, key: str) -> Quarantined:
        """Return one object.

        Raises
        ------
        NotInQuarantine
            There is no such object.
        """
        return self._entry(_row(key))

    def facts(self, key: str) -> dict[str, str]:
        """Return what the object says it is, without what would name the patient."""
        path = self._file(_row(key))
        return header_facts(path) if path else {"Problem": "its file is gone"}

    def subject(self, key: str) -> dict[str, str]:
        """Return whose the object says it is, by DICOM keyword, for the audit trail.

        Raises
        ------
        NotInQuarantine
            There is no such object.
        """
        path = self._file(_row(key))
        names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
        found = header_facts(path, names) if path else {}
        # It may hold anything: no more of it than such a value can be.
        return {name: found.get(name, "")[:64] for name in names}

    def release(self, key: str) -> Release:
        """Try to take an object in, through the same screening as at the door.

        Raises
        ------
        NotInQuarantine
            There is no such object, or its file is gone.
        OutOfSpace
            The disk is too full.
        """
        row = _row(key)
        path = self._file(row)
        if path is None:
            raise NotInQuarantine(f"the file of {key} in quarantine is gone; delete the entry")
        try:
            outcome, sop_instance_uid = self._take_in(path, row.sender)
        except Rejected as error:
            return Release(False, f"refused again: {error}")
        if outcome == StoreOutcome.DIFFERENT:
            return Release(False, "refused again: the same SOP instance is here with other content")
        # Only now: a crash before leaves it in both places, and releasing it again mends that.
        self.remove(row)
        series = Instance.get(Instance.sop_instance_uid == sop_instance_uid).series_id
        if outcome == StoreOutcome.SAME:
            return Release(True, "it was taken in before, with the same content", series)
        return Release(True, "taken in", series)

    def delete(self, key: str) -> None:
        """Delete an object and its file for good.

        Raises
        ------
        NotInQuarantine
            There is no such object.
        """
        self.remove(_row(key))

    def _take_in(self, path: Path, sender: str) -> tuple[StoreOutcome, str]:
        """Do what the receiver does with an instance that arrives; return outcome and UID."""
        encoded = path.read_bytes()
        settings = self._settings
        spool = Spool(settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes)
        spool.check_space(len(encoded))
        try:
            # The receiver wrote there what the C-STORE command said.
            said = read_file_meta_info(path)
        except Exception as error:
            words = f"cannot be read as DICOM ({type(error).__name__})"
            raise Rejected(StoreStatus.CANNOT_UNDERSTAND, words) from error
        uid = str(said.get("MediaStorageSOPInstanceUID", ""))
        draft, screener = spool.draft(encoded), Screener()
        try:
            draft.sync()
            header = screener.screen(draft.path, str(said.get("MediaStorageSOPClassUID", "")), uid)
            return spool.store(header, draft, sender), uid
        finally:
            screener.stop()
            draft.drop()

    def remove(self, row: Rejection) -> None:
        """Delete row and file; in this order, so that no row is left that names no file."""
        Rejection.delete().where(Rejection.id == row.id).execute()
        path = self._file(row)
        with records.transaction():
            # The same bytes may have been refused again in between.
            if path and not Rejection.select().where(Rejection.path == row.path).exists():
                path.unlink(missing_ok=True)

    def _file(self, row: Rejection) -> Path | None:
        path = self._folder / row.path
        return path if _NAME.fullmatch(row.path) and path.is_file() else None

    def _entry(self, row: Rejection) -> Quarantined:
        path = self._file(row)
        return Quarantined(
            key=row.path[:_SHOWN],
            at=row.at,
            reason=row.reason,
            sender=row.sender,
            address=row.address,
            size=path.stat().st_size if path else None,
        )


def _row(key: str) -> Rejection:
    rows = []
    if _KEY.fullmatch(key):
        rows = list(Rejection.select().where(Rejection.path.startswith(key)).limit(2))
    if len(rows) != 1:
        raise NotInQuarantine(
            "several objects in quarantine begin with these digits; give more of them"
            if rows
            else "there is no such object in quarantine"
        )
    return rows[0]
