"""Received instances on disk: durable before they are acknowledged.

File names come from digests, never from what was received. The order is: draft written and synced,
renamed into place, folder synced, row committed. A crash in between leaves a draft, or a file
without a row, which the next attempt of the sender overwrites; never a row without its file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from peewee import OperationalError, PeeweeException

from mrisr_node import records
from mrisr_node.durable import sync
from mrisr_node.errors import NodeError
from mrisr_node.intake.commits import Commits
from mrisr_node.intake.part_10 import hold_the_same
from mrisr_node.intake.screening import Header
from mrisr_node.records import Instance, Rejection, Series, State

__all__ = ["Draft", "OutOfSpace", "Spool", "StoreOutcome", "quarantine_name"]

_DRAFTS = "drafts"
_WITHDRAWING = 1.0
"""Seconds that taking files back may wait for others; what is left is a leftover, and no lie."""


_REMEMBERED = 10_000
"""Folders that are known to be durable in the folder of the spool."""


class OutOfSpace(NodeError):
    """The disk is too full to accept anything."""


class StoreOutcome(StrEnum):
    """What became of a stored instance."""

    NEW = "new"
    SAME = "same"
    DIFFERENT = "different"


@dataclass(frozen=True)
class Draft:
    """A received file that is nothing yet: neither screened nor known to the records."""

    path: Path
    sha256: str
    size: int

    def sync(self) -> None:
        """Make its bytes durable."""
        sync(self.path)

    def drop(self) -> None:
        """Remove it, if it has not become anything."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Kept:
    """A screened draft on its way into the records."""

    header: Header
    draft: Draft
    sender: str
    path: Path


class Spool:
    """The folder of received instances, and the quarantine beside it.

    Parameters
    ----------
    folder, quarantine
        Made if missing; on one file system.
    minimum_free
        Bytes that stay free on it.
    """

    def __init__(self, folder: Path, quarantine: Path, minimum_free: int) -> None:
        self._folder = folder
        self._drafts = folder / _DRAFTS
        self._quarantine = quarantine
        self._minimum_free = minimum_free
        for path in (folder, self._drafts, quarantine):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A disk that is full, a database that is locked.
        self._commits = Commits(self._commit, (OSError, OperationalError))
        self._durable: set[Path] = set()

    def check_space(self, size: int) -> None:
        """Raise `OutOfSpace` where `size` more bytes would go below the watermark."""
        if shutil.disk_usage(self._folder).free - size < self._minimum_free:
            raise OutOfSpace("free space is below minimum_free_bytes; nothing is accepted")

    def clear_drafts(self) -> int:
        """Remove what a receiver that was killed has not acknowledged; return how many files.

        Only for when no receiver runs.
        """
        leftovers = list(self._drafts.iterdir())
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def draft(self, encoded: bytes) -> Draft:
        """Write a received file, not synced yet."""
        path = self._drafts / f"{os.getpid()}-{time.monotonic_ns()}-{os.urandom(4).hex()}"
        try:
            path.write_bytes(encoded)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Draft(path, hashlib.sha256(encoded).hexdigest(), len(encoded))

    def store(self, header: Header, draft: Draft, sender: str, address: str = "") -> StoreOutcome:
        """Keep a synced draft; return what became of it once that is durable.

        An instance that comes again with the same bytes is kept once. The same UID with other bytes
        is not believed: the first is kept, the second goes to quarantine. The file meta information
        does not count.
        """
        folder = hashlib.sha256(header.series_instance_uid.encode()).hexdigest()[:40]
        name = hashlib.sha256(header.sop_instance_uid.encode()).hexdigest()[:40]
        # With the content in its name, no file ever takes the place of another one.
        path = self._folder / folder / f"{name}-{draft.sha256[:24]}.dcm"
        outcome = self._commits.add(_Kept(header, draft, sender, path))
        if outcome is StoreOutcome.DIFFERENT and self._holds(header, draft):
            outcome = StoreOutcome.SAME
        if outcome is StoreOutcome.DIFFERENT:
            reason = "the same SOP instance came before with other content"
            self.reject(draft, reason, sender, header.sop_instance_uid, address)
        draft.drop()
        return outcome

    def _holds(self, header: Header, draft: Draft) -> bool:
        """Tell whether the instance is here as it comes again, but for its file meta information.

        Another version has written that; this is asked of few, and outside any lock.
        """
        row = Instance.get_or_none(Instance.sop_instance_uid == header.sop_instance_uid)
        if row is None:
            return False
        try:
            return hold_the_same(self._folder / row.path, draft.path)
        except FileNotFoundError:
            return False  # its copy was deleted: nobody can tell

    def _commit(self, batch: Sequence[_Kept]) -> list[StoreOutcome]:
        """Make several drafts instances; all are durable after it, or none is."""
        kept = False
        try:
            # Before anything is known of them: as little as possible is done under the lock.
            self._place(batch)
            with records.transaction():
                outcomes = self._record(batch)
            kept = StoreOutcome.DIFFERENT not in outcomes
        finally:
            # What cannot be taken back now is a file without a row, and no lie.
            if not kept:
                with suppress(PeeweeException, OSError):
                    self._withdraw(batch)
        return outcomes

    def _place(self, batch: Sequence[_Kept]) -> None:
        """Give drafts their final names, durably."""
        folders = set()
        for kept in batch:
            folder = kept.path.parent
            folder.mkdir(mode=0o700, exist_ok=True)
            folders.add(folder)
            # A file of that name holds the same bytes, and was synced before it got the name.
            with suppress(FileExistsError):
                os.link(kept.draft.path, kept.path)
        if not folders <= self._durable:
            sync(self._folder)
        for folder in folders:
            sync(folder)
        # What is forgotten is synced once more, when something comes for it.
        self._durable = folders if len(self._durable) > _REMEMBERED else self._durable | folders

    def _record(self, batch: Sequence[_Kept]) -> list[StoreOutcome]:
        """Write the rows of files; the write lock is held."""
        # Taken back by another process that failed with the same bytes, or by retention.
        self._place([kept for kept in batch if not kept.path.exists()])
        uids = [kept.header.sop_instance_uid for kept in batch]
        rows = Instance.select(Instance.sop_instance_uid, Instance.sha256)
        rows = rows.where(Instance.sop_instance_uid.in_(uids))
        known = {row.sop_instance_uid: row.sha256 for row in rows}
        outcomes, new = [], []
        for uid, kept in zip(uids, batch, strict=True):
            if uid in known:
                same = known[uid] == kept.draft.sha256
                outcomes.append(StoreOutcome.SAME if same else StoreOutcome.DIFFERENT)
                continue
            known[uid] = kept.draft.sha256
            outcomes.append(StoreOutcome.NEW)
            new.append(kept)
        if new:
            series = {kept.header.series_instance_uid: kept for kept in new}
            ids = {uid: _series_of(kept.header, kept.sender) for uid, kept in series.items()}
            Instance.insert_many(
                {
                    "series": ids[kept.header.series_instance_uid],
                    "sop_instance_uid": kept.header.sop_instance_uid,
                    "path": str(kept.path.relative_to(self._folder)),
                    "sha256": kept.draft.sha256,
                    "size": kept.draft.size,
                    "sender": kept.sender,
                }
                for kept in new
            ).execute()
        return outcomes

    def _withdraw(self, batch: Sequence[_Kept]) -> None:
        """Take back the files that no row names: not committed, or another was first."""
        names = {str(kept.path.relative_to(self._folder)): kept.path for kept in batch}
        rows = Instance.select(Instance.path).where(Instance.path.in_(list(names)))
        if len(names) == rows.count():
            return
        # The sender has waited for the lock already, if that is what failed.
        with records.transaction(patience=_WITHDRAWING):
            for name in names.keys() - {row.path for row in rows}:
                names[name].unlink(missing_ok=True)

    def reject(
        self,
        draft: Draft,
        reason: str,
        sender: str,
        sop_instance_uid: str = "",
        address: str = "",
    ) -> None:
        """Keep an object that is not accepted, once, with its reason and where it came from."""
        draft.sync()
        path = self._quarantine / quarantine_name(draft.sha256)
        # Whoever deletes from quarantine holds the same lock.
        with records.transaction():
            with suppress(FileExistsError):
                os.link(draft.path, path)
            sync(self._quarantine)
            known = Rejection.get_or_none(Rejection.path == path.name)
            if known and sop_instance_uid and not known.sop_instance_uid:
                # Refused before for what it was, and now for what is here: storage commitment asks.
                Rejection.update(reason=reason, sop_instance_uid=sop_instance_uid[:64]).where(
                    Rejection.id == known.id
                ).execute()
            if known is None:
                Rejection.create(
                    path=path.name,
                    reason=reason,
                    sender=sender,
                    sop_instance_uid=sop_instance_uid[:64],
                    address=address,
                )

    def paths(self, series: Series) -> list[Path]:
        """Return the files of a series, in the order of their SOP Instance UIDs."""
        rows = Instance.select().where(Instance.series == series)
        return [self._folder / row.path for row in rows.order_by(Instance.sop_instance_uid)]


def quarantine_name(sha256: str) -> str:
    """Return the name of a file in quarantine: of the same bytes, always the same."""
    return f"{sha256[:40]}.dcm"


def _series_of(header: Header, sender: str) -> Series:
    now = time.time()
    series: Series | None = Series.get_or_none(
        Series.series_instance_uid == header.series_instance_uid
    )
    if series is None:
        return Series.create(
            series_instance_uid=header.series_instance_uid,
            study_instance_uid=header.study_instance_uid,
            modality=header.modality,
            description=header.description,
            patient_id=header.patient_id,
            patient_name=header.patient_name,
            accession_number=header.accession_number,
            study_date=header.study_date,
            sender=sender,
            last_instance_at=now,
        )
    Series.update(last_instance_at=now).where(Series.id == series.id).execute()
    # Slices that were made of a NIfTI file are none that its series waits for.
    if State(series.state) is not State.RECEIVING and series.format == "dicom":
        series.move(State.RECEIVING, "a late slice arrived")
    return series
