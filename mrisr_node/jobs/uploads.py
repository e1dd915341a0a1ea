"""What is done with an upload once it is whole: looked at, then kept as a file or sent to the PACS.

Uploaded DICOM is screened as at the door, and what is refused goes to quarantine. The rest goes to
the PACS, which has to have the original, and comes from there as every other series does. The
upload is kept until the PACS shows all of it: nothing is lost where it is down.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from peewee import PeeweeException, fn

from mrisr_node import records
from mrisr_node.counts import counted
from mrisr_node.delays import is_due, retry_delay
from mrisr_node.durable import sync
from mrisr_node.errors import DeliveryError, NodeError
from mrisr_node.intake.examiner import Examined, Unusable, examine
from mrisr_node.intake.incoming import InUse, NotReceiving, give_up
from mrisr_node.intake.part_10 import as_received, hold_the_same, say_the_same
from mrisr_node.intake.screener import Screener
from mrisr_node.intake.screening import SOP_CLASSES, Header, Rejected
from mrisr_node.intake.spool import Draft, Spool
from mrisr_node.intake.statuses import StoreStatus
from mrisr_node.jobs.given_files import FILES_DELETED, FILES_READY
from mrisr_node.logs import words_of
from mrisr_node.records import (
    Instance,
    NiftiSeries,
    PairsSeries,
    Series,
    StoredFile,
    Upload,
    UploadState,
)
from mrisr_node.records.states import ACTIVE
from mrisr_node.results.delivery import Pacs
from mrisr_node.settings import Settings

__all__ = ["Uploads"]

_log = logging.getLogger(__name__)

_EVERY = 0.5
_TIDY_EVERY = 60.0
_HOUR, _DAY = 3600.0, 86_400.0
_NOT_MR = "no MR image"
_OTHER = "here already, with other content"


@dataclass
class _Sorted:
    """The DICOM files of an upload: what goes to the PACS, and what does not and why."""

    accepted: list[tuple[Path, Header]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def words(self, none_dicom: int) -> str:
        """Say what became of them."""
        count = len(self.accepted)
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


class Uploads:
    """Works on whole uploads, one at a time, and deletes what is over."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pacs = Pacs(settings)
        self._screener = Screener()
        self._spool = Spool(
            settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes
        )
        self._tidied = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop."""
        while not stop.wait(_EVERY):
            try:
                with records.connection():
                    self.sweep()
            except Exception:  # noqa: BLE001 - the next look may go
                _log.exception("uploads are not looked at now")
        self.close()

    def close(self) -> None:
        """End the child that screens."""
        self._screener.stop()

    def sweep(self) -> int:
        """Work on what is due; return how many uploads that was."""
        waiting = [UploadState.CHECKING.value, UploadState.SENDING.value]
        due = 0
        for upload in list(Upload.select().where(Upload.state.in_(waiting)).order_by(Upload.id)):
            # From here on its owner cannot give it up.
            mine = Upload.update(not_before=0.0).where(
                Upload.id == upload.id, Upload.state.in_(waiting)
            )
            if is_due(upload.not_before, time.time()) and mine.execute():
                self._work_on(upload)
                due += 1
        if time.monotonic() - self._tidied >= _TIDY_EVERY:
            self._tidied = time.monotonic()
            self._tidy()
        return due

    def _work_on(self, upload: Upload) -> None:
        path = self._settings.uploads_dir / upload.key
        folder = self._folder(upload)
        if not path.is_file():
            self._end(upload, UploadState.REFUSED, "its bytes are gone; upload it again")
            return
        try:
            found = examine(self._settings, path, folder)
            upload.kind = found.kind
            if found.kind == "nifti":
                self._keep(upload, path, found)
            else:
                self._send(upload, [path] if found.kind == "dicom" else _files(folder), found)
        except Unusable as error:
            self._end(upload, UploadState.REFUSED, str(error))
        except DeliveryError as error:
            self._later(upload, str(error))
        except PeeweeException:
            raise
        except Exception as error:  # noqa: BLE001 - the others go on
            known = isinstance(error, NodeError)
            _log.warning("upload %d is put off", upload.id, exc_info=not known)
            self._later(upload, str(error) if known else words_of(error)[:300])
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _keep(self, upload: Upload, path: Path, found: Examined) -> None:
        """Make a NIfTI file one that can be processed and downloaded."""
        folder = self._settings.files_dir
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):  # a crash came between the link and the row
            os.link(path, folder / upload.key)
        sync(folder)
        with records.transaction():
            file = StoredFile.get_or_none(StoredFile.key == upload.key) or StoredFile.create(
                key=upload.key,
                owner=upload.owner,
                name=upload.name,
                size=upload.size,
                sha256=found.sha256,
                media_type="application/gzip" if found.facts["packed"] else "application/x-nifti",
                facts=json.dumps(found.facts),
            )
            Upload.update(file=file).where(Upload.id == upload.id).execute()
        shape = " × ".join(map(str, found.facts["shape"]))
        self._end(upload, UploadState.DONE, f"a volume of {shape} voxels")

    def _send(self, upload: Upload, files: list[Path], found: Examined) -> None:
        """Screen DICOM files and bring to the PACS what passes."""
        sorted_ = _Sorted()
        for file in files:
            self._screen(upload, file, sorted_)
        if not sorted_.accepted:
            raise Unusable(sorted_.words(found.left_out) or "it holds nothing that can be used")
        refused = self._pacs.stow_files([path for path, _ in sorted_.accepted])
        screened, sorted_.accepted = sorted_.accepted, []
        for path, header in screened:
            if (uid := header.sop_instance_uid) in refused:
                draft = self._spool.draft(path.read_bytes())
                self._reject(upload, draft, refused[uid], sorted_, uid)
            else:
                sorted_.accepted.append((path, header))
        if not sorted_.accepted:
            raise Unusable(sorted_.words(found.left_out))
        series: dict[tuple[str, str], set[str]] = {}
        for _, header in sorted_.accepted:
            key = header.study_instance_uid, header.series_instance_uid
            series.setdefault(key, set()).add(header.sop_instance_uid)
        for (study, uid), sent in series.items():
            if missing := sent - self._pacs.instances(study, uid, until=sent):
                raise DeliveryError(
                    f"the PACS shows {len(sent) - len(missing)} of {len(sent)} images sent to it"
                )
        Upload.update(series=json.dumps([uid for _, uid in series])).where(
            Upload.id == upload.id
        ).execute()
        self._end(upload, UploadState.DONE, sorted_.words(found.left_out))

    def _screen(self, upload: Upload, file: Path, sorted_: _Sorted) -> None:
        """Look at one file as the receiver does; what passes stays there, in our file format."""
        if file.stat().st_size > self._settings.maximum_instance_bytes:
            sorted_.refused["larger than maximum_instance_bytes"] += 1
            return
        try:
            encoded, sop_class, uid = as_received(file)
        except Exception as error:  # noqa: BLE001 - pydicom raises anything on a damaged file
            words = f"cannot be read as DICOM ({type(error).__name__})"
            self._reject(upload, self._spool.draft(file.read_bytes()), words, sorted_)
            return
        if sop_class not in SOP_CLASSES:
            sorted_.refused[_NOT_MR] += 1
            return
        draft = self._spool.draft(encoded)
        try:
            header = self._screener.screen(draft.path, sop_class, uid)
            if self._differs(draft, uid):
                raise Rejected(StoreStatus.DUPLICATE, _OTHER)
        except Rejected as error:
            self._reject(upload, draft, str(error), sorted_, uid)
            return
        passed = self._folder(upload) / f"{len(sorted_.accepted):06d}.passed"
        passed.parent.mkdir(exist_ok=True, mode=0o700)
        draft.path.replace(passed)
        sorted_.accepted.append((passed, header))

    def _reject(
        self, upload: Upload, draft: Draft, reason: str, sorted_: _Sorted, uid: str = ""
    ) -> None:
        try:
            self._spool.reject(draft, reason, upload.owner, uid)
        finally:
            draft.drop()
        sorted_.refused[f"{reason} (in quarantine)"] += 1

    def _folder(self, upload: Upload) -> Path:
        return self._settings.uploads_dir / f"{upload.key}.files"

    def _differs(self, draft: Draft, sop_instance_uid: str) -> bool:
        """Tell whether the instance is here with other content: the PACS would keep the first."""
        row = Instance.get_or_none(Instance.sop_instance_uid == sop_instance_uid)
        if row is None or row.sha256 == draft.sha256:
            return False
        here = self._settings.spool_dir / row.path
        with suppress(FileNotFoundError):
            return not (hold_the_same(here, draft.path) or say_the_same(here, draft.path))
        return False  # its copy was deleted: nobody can tell

    def _later(self, upload: Upload, reason: str) -> None:
        tries = upload.attempts + 1
        if tries >= self._settings.delivery_attempts:
            self._end(
                upload,
                UploadState.REFUSED,
                f"{reason} (tried {counted(tries, 'time')}); upload it again",
            )
            return
        delay = retry_delay(tries, self._settings.delivery_first_delay)
        now = time.time()
        Upload.update(
            state=UploadState.SENDING.value, kind=upload.kind, attempts=tries,
            not_before=now + delay, touched_at=now,
            reason=f"{reason}; it will be tried again",
        ).where(Upload.id == upload.id).execute()  # fmt: skip
        _log.warning("upload %d: %s; next try in %.0f s", upload.id, reason, delay)

    def _end(self, upload: Upload, state: UploadState, reason: str) -> None:
        Upload.update(
            state=state.value, kind=upload.kind, reason=reason, touched_at=time.time()
        ).where(Upload.id == upload.id).execute()
        (self._settings.uploads_dir / upload.key).unlink(missing_ok=True)
        _log.info("upload %d of %s: %s", upload.id, upload.owner, state.value)

    def _tidy(self) -> None:
        """Name who uploaded what came, and delete what is over or has expired."""
        now = time.time()
        recent = Upload.select().where(Upload.touched_at > now - _DAY, Upload.series != "[]")
        for upload in list(recent):
            Series.update(sender=upload.owner).where(
                Series.series_instance_uid.in_(json.loads(upload.series)),
                Series.sender == self._settings.pacs_ae_title,
            ).execute()
        expired = Upload.touched_at < now - self._settings.upload_hours * _HOUR
        unfinished = Upload.state == UploadState.RECEIVING.value
        for upload in list(Upload.select().where(unfinished, expired)):
            with suppress(InUse, NotReceiving):
                give_up(self._settings, upload)
        days = self._settings.retention_files_days
        if days is not None:
            self._forget(now - days * _DAY)

    def _forget(self, before: float) -> None:
        ended = [UploadState.DONE.value, UploadState.REFUSED.value]
        Upload.delete().where(Upload.state.in_(ended), Upload.touched_at < before).execute()
        active = [state.value for state in ACTIVE]
        reason = fn.REPLACE(Series.reason, FILES_READY, FILES_DELETED)
        Series.update(copies_deleted_at=time.time(), reason=reason).where(
            Series.format != "dicom", Series.state.not_in(active), Series.state_at < before,
            Series.copies_deleted_at.is_null(),
        ).execute()  # fmt: skip
        for file in list(StoredFile.select().where(StoredFile.created_at < before)):
            delete_file(self._settings, file)


def is_needed(file: StoredFile) -> bool:
    """Tell whether a job that goes on was given this file."""
    active = [state.value for state in ACTIVE]
    alone = NiftiSeries.select().join(Series).where(NiftiSeries.file == file)
    together = PairsSeries.select().join(Series).where(PairsSeries.files.contains(file.key))
    return any(rows.where(Series.state.in_(active)).exists() for rows in (alone, together))


def delete_file(settings: Settings, file: StoredFile) -> bool:
    """Delete a file, row and bytes, unless a job needs it; return whether it is gone."""
    with records.transaction():
        if is_needed(file):
            return False
        StoredFile.delete().where(StoredFile.id == file.id).execute()
    (settings.files_dir / file.key).unlink(missing_ok=True)
    return True


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))
