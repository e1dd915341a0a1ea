"""DICOM in: the door and what it needs before it opens."""

from __future__ import annotations

import logging
from typing import IO

from mrisr_node.intake.door import Door
from mrisr_node.intake.spool import Spool
from mrisr_node.intake.tls import server_context
from mrisr_node.locks import claim
from mrisr_node.settings import Settings

__all__ = ["Receiver"]

_log = logging.getLogger(__name__)


class Receiver:
    """Listens for MR instances and puts them on the spool.

    C-ECHO is open to every address that is accepted, C-STORE to the calling AE titles that the
    settings name.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._door = Door(settings)
        self._lock: IO[str] | None = None

    @property
    def associations(self) -> int:
        """How many associations there are now."""
        return self._door.associations

    @property
    def processes(self) -> list[int]:
        """Process ids of those that serve associations."""
        return self._door.process_ids

    def start(self) -> None:
        """Listen, in a thread and processes of our own.

        Raises
        ------
        SettingsError
            Another receiver runs on the data directory, an address cannot be listened on, or the
            certificates cannot be used.
        """
        settings = self._settings
        server_context(settings)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        # What looks like an earlier run's leftovers is another receiver's work, while that lives.
        self._lock = claim(
            settings.data_dir / "receiver.lock",
            f"another receiver runs on {settings.data_dir}: end it, or set another data_dir",
        )
        try:
            self._open()
        except BaseException:
            self._release()
            raise

    def _open(self) -> None:
        settings = self._settings
        spool = Spool(settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes)
        if leftovers := spool.clear_drafts():
            _log.warning("%d files of an earlier run, never acknowledged, removed", leftovers)
        self._door.open()

    def stop(self) -> None:
        """Close the listening sockets and the associations."""
        self._door.close()
        self._release()

    def _release(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None
