"""The DICOM files of an upload on their way to the PACS, one at a time.

Each is screened as at the door, and compared with what the node and the PACS have of its UID. What
is refused goes to quarantine, and does not hold up the others. Whose images they are is written
into the audit trail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peewee import PeeweeException

from mrisr_node.errors import DeliveryError, NodeError
from mrisr_node.intake.part_10 import as_received, hold_the_same, say_the_same
from mrisr_node.intake.screener import Screener
from mrisr_node.intake.screening import SOP_CLASSES, Header, Rejected
from mrisr_node.intake.spool import Draft, Spool
from mrisr_node.people.audit import Action, record_once
from mrisr_node.records import Instance, Upload, User
from mrisr_node.results.delivery import Pacs
from mrisr_node.results.originals import OTHER_CONTENT, NotKept, Originals
from mrisr_node.settings import Settings

__all__ = ["UploadedImages"]

_NOT_MR = "no MR image"
_TAKEN, _NOT_TAKEN = 200, 409  # as HTTP has it, in the audit trail


@dataclass
class _Found:
    """What became of the files."""

    stored: dict[str, Header] = field(default_factory=dict)
    """By SOP Instance UID."""
    refused: Counter[str] = field(default_factory=Counter)
    whose: set[tuple[str, str, str, int]] = field(default_factory=set)
    """Patient ID, Study and Series Instance UID, and the outcome."""

    def store(self, header: Header) -> None:
        self.stored[header.sop_instance_uid] = header
        self._remember(header, _TAKEN)

    def refuse(self, reason: str, what: Header | Rejected | None = None) -> None:
        self.refused[reason] += 1
        self._remember(what, _NOT_TAKEN)

    def _remember(self, what: Header | Rejected | None, status: int) -> None:
        uids = (what.study_instance_uid, what.series_instance_uid) if what else ("", "")
        self.whose.add((what.patient_id if what else "", *uids, status))

    def series(self) -> dict[tuple[str, str], set[str]]:
        """Return the instances that were stored, by study and series."""
        found: dict[tuple[str, str], set[str]] = {}
        for uid, header in self.stored.items():
            key = header.study_instance_uid, header.series_instance_uid
            found.setdefault(key, set()).add(uid)
        return found

    def words(self, none_dicom: int) -> str:
        """Say what became of them."""
        count = len(self.stored)
        images = "1 image is" if count == 1 else f"{count} images are"
        said = [f"{images} in the PACS"] if count else []
        said += [f"{count} not taken: {why}" for why, count in self.refused.most_common()]
        if none_dicom:
            files = (
                "1 file is no DICOM and was"
                if none_dicom == 1
                else (f"{none_dicom} files are no DICOM and were")
            )
            said.append(f"{files} left out")
        return "; ".join(said)


class UploadedImages:
    """Brings the images of uploads to the PACS."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pacs = Pacs(settings)
        self._screener = Screener()
        self._spool = Spool(
            settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes
        )

    def close(self) -> None:
        """End the child that screens."""
        self._screener.stop()

    def send(self, upload: Upload, files: list[Path], left_out: int) -> tuple[list[str], str]:
        """Bring files to the PACS, unless they are refused.

        Parameters
        ----------
        left_out
            How many others of the upload are no DICOM.

        Returns
        -------
        tuple
            UIDs of the series that the PACS shows now, and what became of all, in words.

        Raises
        ------
        DeliveryError
            The PACS cannot be reached, or does not store or show an image now.
        NodeError
            The audit trail cannot be written: what was stored is not yet told of.
        """
        found = _Found()
        try:
            with self._pacs.originals(self._is_the_same) as originals:
                for file in files:
                    self._keep(upload, file, originals, found)
            for (study, uid), sent in found.series().items():
                if missing := sent - self._pacs.instances(study, uid, until=sent):
                    there = len(sent) - len(missing)
                    raise DeliveryError(f"the PACS shows {there} of {len(sent)} images sent to it")
        finally:
            self._record(upload, found)
        return [uid for _, uid in found.series()], found.words(left_out)

    def _keep(self, upload: Upload, file: Path, originals: Originals, found: _Found) -> None:
        """Look at one file as the receiver does; what passes goes on in our file format."""
        if file.stat().st_size > self._settings.maximum_instance_bytes:
            found.refuse("larger than maximum_instance_bytes")
            return
        try:
            encoded, sop_class, uid = as_received(file)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - pydicom raises anything on a damaged file
            words = f"cannot be read as DICOM ({type(error).__name__})"
            self._reject(upload, self._spool.draft(file.read_bytes()), words)
            found.refuse(_in_quarantine(words))
            return
        if sop_class not in SOP_CLASSES:
            found.refuse(_NOT_MR)
            return
        draft = self._spool.draft(encoded)
        header: Header | None = None
        try:
            header = self._screener.screen(draft.path, sop_class, uid)
            if self._differs(draft, uid):
                raise NotKept(OTHER_CONTENT)
            originals.keep(draft.path, uid)
            found.store(header)
        except (Rejected, NotKept) as error:
            self._reject(upload, draft, str(error), uid)
            what = error if isinstance(error, Rejected) else header
            found.refuse(_in_quarantine(str(error)), what)
        finally:
            draft.drop()

    def _reject(self, upload: Upload, draft: Draft, reason: str, uid: str = "") -> None:
        try:
            self._spool.reject(draft, reason, upload.owner, uid)
        finally:
            draft.drop()

    def _differs(self, draft: Draft, sop_instance_uid: str) -> bool:
        """Tell whether the instance is here with other content: what comes then is not believed."""
        row = Instance.get_or_none(Instance.sop_instance_uid == sop_instance_uid)
        if row is None or row.sha256 == draft.sha256:
            return False
        here = self._settings.spool_dir / row.path
        with suppress(FileNotFoundError):
            return not (hold_the_same(here, draft.path) or say_the_same(here, draft.path))
        return False  # its copy was deleted: the PACS can tell

    def _is_the_same(self, ours: Path, theirs: Path) -> bool:
        """Compare an image with what the PACS has, which nobody has screened."""
        if hold_the_same(ours, theirs):
            return True
        try:
            self._screener.screen(theirs)
        except Rejected:
            return False
        return say_the_same(ours, theirs)

    def _record(self, upload: Upload, found: _Found) -> None:
        """Write down whose images somebody brought; once, however often that is tried."""
        try:
            record_once(_rows(upload, found))
        except (PeeweeException, OSError) as error:
            raise NodeError("the audit trail cannot be written") from error


def _in_quarantine(reason: str) -> str:
    return f"{reason} (in quarantine)"


def _rows(upload: Upload, found: _Found) -> Iterator[dict[str, Any]]:
    owner = User.get_or_none(User.username == upload.owner)
    for patient, study, series, status in sorted(found.whose):
        yield {
            "action": Action.IMPORT,
            "username": upload.owner,
            "role": owner.role if owner else "",
            "resource": f"/api/uploads/{upload.key}",
            "patient_id": patient,
            "study_uid": study,
            "series_uid": series,
            "status": status,
        }
