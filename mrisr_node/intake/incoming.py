"""The bytes of an upload on their way in: one request at a time adds to them, durably."""

from __future__ import annotations

import fcntl
import os
import shutil
import time

from mrisr_node.durable import sync
from mrisr_node.errors import NodeError
from mrisr_node.records import Upload, UploadState, transaction
from mrisr_node.settings import Settings

__all__ = ["InUse", "NotReceiving", "Part", "give_up", "lacks_room"]


class InUse(NodeError):
    """Another request, of this process or another one, writes to the upload."""


class NotReceiving(NodeError):
    """The upload takes no more bytes: it is whole, or was given up."""


def lacks_room(settings: Settings, size: int) -> bool:
    """Tell whether `size` more bytes would go below the watermark."""
    settings.uploads_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(settings.uploads_dir).free
    return free - size < settings.minimum_free_bytes


class Part:
    """What has come of an upload, held by this request alone until it is closed.

    Raises
    ------
    InUse
        Somebody else holds it.
    NotReceiving
        It takes no bytes any more, whatever `upload` says.
    """

    def __init__(self, settings: Settings, upload: Upload) -> None:
        settings.uploads_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The key is ours: 32 hexadecimal digits, as the records gave it.
        self._path = settings.uploads_dir / upload.key
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found: Upload | None = Upload.get_or_none(Upload.id == upload.id)
            if found is None or found.state != UploadState.RECEIVING.value:
                # None that was whole is empty: opening has made it.
                if not os.fstat(self._file).st_size:
                    self._path.unlink(missing_ok=True)
                raise NotReceiving("this upload is whole already, or was given up")
            self.upload = found
            # Fewer are there where somebody has lost the file; zeros must not take their place.
            if (there := os.fstat(self._file).st_size) < found.offset:
                found.offset = there
                Upload.update(offset=there).where(Upload.id == found.id).execute()
            # What was written and never became durable, and is of no checksum that was right.
            os.ftruncate(self._file, self.upload.offset)
            os.lseek(self._file, 0, os.SEEK_END)
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, BlockingIOError):
                raise InUse("another request writes to this upload") from error
            raise
        self.end = self.offset
        if not self.offset:
            sync(settings.uploads_dir)

    @property
    def offset(self) -> int:
        """How many bytes are durable."""
        return int(self.upload.offset)

    def write(self, content: bytes) -> None:
        """Add bytes, which are nothing until they are kept."""
        view = memoryview(content)
        while view:
            view = view[os.write(self._file, view) :]
        self.end += len(content)

    def keep(self) -> None:
        """Make what was written durable, and say so; with the last byte the upload is whole."""
        if self.end == self.offset:
            return
        os.fsync(self._file)
        now, whole = time.time(), self.end == self.upload.size
        state = UploadState.CHECKING if whole else UploadState.RECEIVING
        with transaction():
            Upload.update(offset=self.end, state=state.value, touched_at=now).where(
                Upload.id == self.upload.id
            ).execute()
        self.upload.offset, self.upload.state, self.upload.touched_at = self.end, state.value, now

    def close(self) -> None:
        """Let others write."""
        os.close(self._file)


def give_up(settings: Settings, upload: Upload) -> None:
    """Delete an upload, row and bytes; also one that waits for its next try.

    Raises
    ------
    InUse
        Somebody is writing to it.
    NotReceiving
        Its bytes are being worked on.
    """
    part = Part(settings, upload) if upload.state == UploadState.RECEIVING.value else None
    try:
        worked_on = [UploadState.CHECKING.value, UploadState.SENDING.value]
        idle = Upload.state.not_in(worked_on) | (Upload.not_before > time.time())
        gone = Upload.delete().where(Upload.id == upload.id, idle)
        if not gone.execute():
            raise NotReceiving("this upload is being worked on, or was given up")
        (settings.uploads_dir / upload.key).unlink(missing_ok=True)
    finally:
        if part:
            part.close()
