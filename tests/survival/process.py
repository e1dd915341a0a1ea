"""The receiver as a process of its own, the door included, and what it takes and says."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import psutil

from mrisr_node.settings import Settings

__all__ = ["ReceiverProcess"]


class ReceiverProcess:
    """``mrisr-node receive``, from the block's beginning to its end.

    Parameters
    ----------
    log
        The file that it and its children log to.
    """

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings = settings
        self._log = log

    def __enter__(self) -> ReceiverProcess:
        with self._log.open("ab") as file:
            self._process = psutil.Popen(
                [sys.executable, "-m", "mrisr_node.cli", "receive"],
                env=self._settings.environment(), stdin=subprocess.DEVNULL, stderr=file,
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no receiver: {self._log.read_text()}")
            time.sleep(0.1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except psutil.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        """The process with the door; the others are its children."""
        return self._process.pid

    @property
    def processes(self) -> set[int]:
        """The door's own process, and those that serve associations."""
        return {self._process.pid, *(child.pid for child in self._process.children())}

    def memory(self) -> int:
        """Return the resident bytes of the door, the receiver processes and their children."""
        family = [self._process, *self._process.children(recursive=True)]
        return sum(int(process.memory_info().rss) for process in family)

    def said(self, since: int = 0) -> list[str]:
        """Return what was logged beyond an offset in the file, one string a line."""
        with self._log.open() as file:
            file.seek(since)
            lines = [json.loads(line) for line in file if line.endswith("\n")]
        return [
            f"{one['level']}: {one.get('event', '')} {one.get('exception', '')}" for one in lines
        ]

    def logged(self) -> int:
        """Return the length of the log until now."""
        return self._log.stat().st_size

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._settings.receiver_port)).close()
        except OSError:
            return False
        return True
