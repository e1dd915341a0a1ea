"""What is done with an upload once it is whole: looked at, then kept as a file or sent to the PACS.

Uploaded DICOM goes to the PACS, which has to have the original, and comes from there as every other
series does. An upload is kept until the PACS shows all of it, however long that takes: nothing is
lost where it is down, or where the node has no room.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from peewee import PeeweeException, fn

from mrisr_node import records
from mrisr_node.counts import counted
from mrisr_node.delays import is_due, retry_delay
from mrisr_node.durable import sync
from mrisr_node.errors import NodeError
from mrisr_node.intake.examiner import Examined, Unusable, examine
from mrisr_node.intake.incoming import InUse, NotReceiving, give_up
from mrisr_node.jobs.given_files import FILES_DELETED, FILES_READY
from mrisr_node.jobs.uploaded_images import UploadedImages
from mrisr_node.logs import words_of
from mrisr_node.people.audit import open_audit
from mrisr_node.records import (
    NiftiSeries,
    PairsSeries,
    Series,
    StoredFile,
    Upload,
    UploadState,
)
from mrisr_node.records.states import ACTIVE
from mrisr_node.settings import Settings

__all__ = ["Uploads"]

_log = logging.getLogger(__name__)

_EVERY = 0.5
_TIDY_EVERY = 60.0
_HOUR, _DAY = 3600.0, 86_400.0


class Uploads:
    """Works on whole uploads, one at a time, and deletes what is over."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._images = UploadedImages(settings)
        self._tidied = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop."""
        audited = False
        while True:
            try:
                if not audited:
                    open_audit(self._settings.audit_path)
                    audited = True
                with records.connection():
                    self.sweep()
            except Exception:  # noqa: BLE001 - the next look may go
                _log.exception("uploads are not looked at now")
            if stop.wait(_EVERY):
                break
        self.close()

    def close(self) -> None:
        """End the child that screens."""
        self._images.close()

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
        try:
            if not path.is_file():
                raise Unusable("its bytes are gone; upload it again")
            found = examine(self._settings, path, folder)
            upload.kind = found.kind
            if found.kind == "nifti":
                self._keep(upload, path, found)
            else:
                files = [path] if found.kind == "dicom" else sorted(folder.glob("*.dcm"))
                self._send(upload, files, found)
        except Unusable as error:
            self._end(upload, UploadState.REFUSED, str(error))
        except NodeError as error:
            self._later(upload, str(error))
        except PeeweeException:
            raise
        except Exception as error:  # noqa: BLE001 - the others go on
            _log.warning("upload %d is put off", upload.id, exc_info=True)
            self._later(upload, words_of(error)[:300])
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
        """Bring the images to the PACS."""
        series, became = self._images.send(upload, files, found.left_out)
        if not series:
            raise Unusable(became or "it holds nothing that can be used")
        Upload.update(series=json.dumps(series)).where(Upload.id == upload.id).execute()
        self._end(upload, UploadState.DONE, became)

    def _folder(self, upload: Upload) -> Path:
        return self._settings.uploads_dir / f"{upload.key}.files"

    def _later(self, upload: Upload, reason: str) -> None:
        """Put an upload off, however often it was: nobody else need have what it holds."""
        tries = upload.attempts + 1
        delay = retry_delay(tries, self._settings.delivery_first_delay)
        now = time.time()
        Upload.update(
            state=UploadState.SENDING.value, kind=upload.kind, attempts=tries,
            not_before=now + delay, touched_at=now,
            reason=f"{reason} (tried {counted(tries, 'time')}); it will be tried again",
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
