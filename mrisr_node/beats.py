"""Signs of life: each long-running process of the node writes every few seconds that it lives.

Monitoring reads them (``web.health``, ``web.metrics``). Nothing is decided by them: who holds a job
is told by its lease.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peewee import PeeweeException

from mrisr_node import records
from mrisr_node.records import Beat

__all__ = ["STALE_SECONDS", "Sign", "alive", "beating", "signs", "write_beat"]

_log = logging.getLogger(__name__)

STALE_SECONDS = 60.0
"""A process that was silent for longer counts as gone: as long as a lease, twelve beats."""
_EVERY = 5.0

Details = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Sign:
    """The last sign of life of one process."""

    process: str
    at: float
    details: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The process's name without its number: ``receiver`` of ``receiver/2``."""
        return self.process.partition("/")[0]

    @property
    def fresh(self) -> bool:
        """Whether it was written lately, and not by a clock that was ahead."""
        return abs(time.time() - self.at) <= STALE_SECONDS


def write_beat(process: str, owner: str, details: Mapping[str, Any] | None = None) -> None:
    """Write one sign of life; the newest of a process takes the place of the one before.

    Parameters
    ----------
    process
        Its name, the same after a restart; where several do the same work, with a number:
        ``receiver/2``.
    owner
        Which process it is now (`records.owner_name`).
    details
        What JSON can hold. A receiver says how many ``associations`` are open.
    """
    row = {"owner": owner, "at": time.time(), "details": json.dumps(details or {})}
    Beat.insert(process=process, **row).on_conflict(
        conflict_target=[Beat.process], update=row
    ).execute()


@contextmanager
def alive(process: str, details: Details = dict) -> Iterator[None]:
    """Write signs of life from a thread while the body runs.

    Parameters
    ----------
    process
        As in `write_beat`.
    details
        Asked at each beat, from the thread.
    """
    owner = records.owner_name()

    def beat() -> None:
        with records.connection():
            write_beat(process, owner, details())

    with beating(beat, _EVERY, f"beat of {process}", "no sign of life was written", at_once=True):
        yield


@contextmanager
def beating(
    beat: Callable[[], None], every: float, name: str, in_vain: str, *, at_once: bool = False
) -> Iterator[None]:
    """Do something in a thread again and again while the body runs.

    Parameters
    ----------
    beat
        What is done; it opens the records itself. Where they are busy, the next beat comes in time.
    every
        Seconds between two.
    name
        Of the thread.
    in_vain
        What to log where the records could not be written.
    at_once
        Whether the first beat comes at the beginning, and not ``every`` seconds after it.
    """
    stop = threading.Event()

    def go_on() -> None:
        if not at_once and stop.wait(every):
            return
        while True:
            try:
                beat()
            except PeeweeException:
                _log.warning("%s", in_vain, exc_info=True)
            if stop.wait(every):
                return

    thread = threading.Thread(target=go_on, daemon=True, name=name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def signs() -> list[Sign]:
    """Return the last sign of life of every process that ever gave one, by name."""
    rows = Beat.select().order_by(Beat.process)
    return [Sign(row.process, row.at, json.loads(row.details)) for row in rows]
