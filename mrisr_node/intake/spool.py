"""Received instances on disk: durable before they are acknowledged.

File names come from digests, never from what was received. The order is: file written and synced,
renamed into place, folder synced, row committed. A crash in between leaves a file without a row,
which the next attempt of the sender overwrites, never a row without its file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

from mrisr_node import records
from mrisr_node.errors import NodeError
from mrisr_node.intake.screening import Header
from mrisr_node.records import Instance, Rejection, Series, State

__all__ = ["OutOfSpace", "Spool", "StoreOutcome"]


class OutOfSpace(NodeError):
    """The disk is too full to accept anything."""


class StoreOutcome:
    """What became of a stored instance."""

    NEW = "new"
    SAME = "same"
    DIFFERENT = "different"


class Spool:
    """The folder of received instances, and the quarantine beside it."""

    def __init__(self, folder: Path, quarantine: Path, minimum_free: int) -> None:
        self._folder = folder
        self._quarantine = quarantine
        self._minimum_free = minimum_free
        for path in (folder, quarantine):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def check_space(self, size: int) -> None:
        """Raise `OutOfSpace` where `size` more bytes would go below the watermark."""
        if shutil.disk_usage(self._folder).free - size < self._minimum_free:
            raise OutOfSpace("free space is below minimum_free_bytes; nothing is accepted")

    def store(self, header: Header, encoded: bytes, sender: str) -> str:
        """Keep an instance; return one of `StoreOutcome` once it is durable.

        An instance that comes again with the same bytes is kept once. The same UID with other bytes
        is not believed: the first is kept, the second goes to quarantine.
        """
        digest = hashlib.sha256(encoded).hexdigest()
        folder = hashlib.sha256(header.series_instance_uid.encode()).hexdigest()[:40]
        name = hashlib.sha256(header.sop_instance_uid.encode()).hexdigest()[:40]
        # With the content in its name, no file ever takes the place of another one.
        path = self._folder / folder / f"{name}-{digest[:24]}.dcm"
        _write_durably(path, encoded)
        with records.transaction():
            known = Instance.get_or_none(Instance.sop_instance_uid == header.sop_instance_uid)
            if known is None:
                Instance.create(
                    series=_series_of(header, sender),
                    sop_instance_uid=header.sop_instance_uid,
                    path=str(path.relative_to(self._folder)),
                    sha256=digest,
                    size=len(encoded),
                    sender=sender,
                )
                return StoreOutcome.NEW
        if self._folder / known.path != path:
            path.unlink()
        if known.sha256 == digest:
            return StoreOutcome.SAME
        reason = "the same SOP instance came before with other content"
        self.reject(encoded, reason, sender, header.sop_instance_uid)
        return StoreOutcome.DIFFERENT

    def reject(self, encoded: bytes, reason: str, sender: str, sop_instance_uid: str = "") -> None:
        """Keep an object that is not accepted, once, with its reason."""
        path = self._quarantine / f"{hashlib.sha256(encoded).hexdigest()[:40]}.dcm"
        _write_durably(path, encoded)
        if not Rejection.select().where(Rejection.path == path.name).exists():
            Rejection.create(
                path=path.name, reason=reason, sender=sender, sop_instance_uid=sop_instance_uid[:64]
            )

    def paths(self, series: Series) -> list[Path]:
        """Return the files of a series, in the order of their SOP Instance UIDs."""
        rows = Instance.select().where(Instance.series == series)
        return [self._folder / row.path for row in rows.order_by(Instance.sop_instance_uid)]


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
            sender=sender,
            last_instance_at=now,
        )
    Series.update(last_instance_at=now).where(Series.id == series.id).execute()
    if State(series.state) is not State.RECEIVING:
        series.move(State.RECEIVING, "a late slice arrived")
    return series


def _write_durably(path: Path, encoded: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    with draft.open("wb") as file:
        file.write(encoded)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_folder(path.parent)
    _sync_folder(path.parent.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
