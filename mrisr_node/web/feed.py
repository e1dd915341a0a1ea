"""The records watched once for all who follow them live.

A stream keeps nothing but how far it has come in what happened, so one that does not read costs no
memory; and what it missed is read from the records.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from mrisr_node.jobs.happenings import (
    Happening,
    Standing,
    happenings,
    newest_happening,
    standings,
)
from mrisr_node.web.stages import overall, stage_name, time_left

__all__ = ["Event", "Feed", "Full"]

_log = logging.getLogger(__name__)

_EVERY = 0.5
# Something is said now and then, by which the guard sees whether whoever follows still may.
_QUIET = 5.0
_PAGE = 200
# Of one person: as many windows as somebody may have open.
_MOST_OF_ONE = 20


class Full(Exception):
    """So many streams are open already."""


@dataclass(frozen=True)
class Event:
    """What a stream is told."""

    kind: str
    """``hello``, ``series``, ``progress`` or ``quiet``."""
    data: dict[str, Any]
    id: int | None = None
    """From where to go on; none: it is only how things are now."""


class Feed:
    """Everything that happens, for any number of streams up to a limit.

    Parameters
    ----------
    most
        Streams at one time.
    stopping
        Whether the server is about to end.
    """

    def __init__(self, most: int, stopping: Callable[[], bool]) -> None:
        self._most = most
        self._stopping = stopping
        self._open: Counter[str] = Counter()
        self._watch: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._newest = 0
        self._standings: list[Standing] = []

    @property
    def streams(self) -> int:
        """How many are open."""
        return self._open.total()

    def enter(self, username: str) -> None:
        """Count a stream in, until `leave`.

        Raises
        ------
        Full
            There are too many.
        """
        if self.streams >= self._most or self._open[username] >= _MOST_OF_ONE:
            raise Full
        self._open[username] += 1
        if self._watch is None:
            self._watch = asyncio.create_task(self._run())

    def leave(self, username: str) -> None:
        """Count a stream out; with the last one the watching ends."""
        self._open[username] -= 1
        self._open += Counter()  # without names that have none
        if not self.streams and self._watch is not None:
            self._watch.cancel()
            self._watch = None
            self._newest, self._standings = 0, []

    async def follow(self, series: int | None, after: int | None) -> AsyncGenerator[Event, None]:
        """Yield what happens, to one series or to all, until the server ends.

        Parameters
        ----------
        after
            The id of the last event that they know; None: from now on.
        """
        newest = await run_in_threadpool(newest_happening)
        # An id of the future is of a database that was restored since.
        at = newest if after is None else min(after, newest)
        yield Event("hello", {}, at)
        told: dict[int, Event] = {}
        said = time.monotonic()
        while not self._stopping():
            changed = self._changed
            newest = self._newest
            while at < newest:
                rows = await run_in_threadpool(happenings, at, _PAGE, series)
                for one in rows:
                    yield _happened(one)
                    at = one.id
                if len(rows) < _PAGE:
                    at = max(at, newest)  # what else there was, was of other series
            now = {s.series: _stands(s) for s in self._standings if series in (None, s.series)}
            for number, event in now.items():
                if told.get(number) != event:
                    yield event
            told = now
            if time.monotonic() - said >= _QUIET:
                said = time.monotonic()
                yield Event("quiet", {})
            await changed.wait()

    async def _run(self) -> None:
        """Look at the records again and again, and wake the streams each time."""
        while True:
            try:
                self._newest, self._standings = await run_in_threadpool(_look)
            except Exception:  # noqa: BLE001 - the next look may go
                _log.warning("the records cannot be followed now", exc_info=True)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            await asyncio.sleep(_EVERY)


def _look() -> tuple[int, list[Standing]]:
    return newest_happening(), standings()


def _happened(one: Happening) -> Event:
    return Event("series", {name: v for name, v in asdict(one).items() if name != "id"}, one.id)


def _stands(one: Standing) -> Event:
    left = time_left(one.time_left)
    # In whole seconds: nobody has to be told more often.
    rounded = left and {k: round(v) if v is not None else v for k, v in left.model_dump().items()}
    return Event(
        "progress",
        {
            "series": one.series,
            "state": one.state,
            "reason": one.reason,
            "instances": one.instances,
            "expected_instances": one.expected_instances,
            "job": one.job,
            "stage": one.stage,
            "stage_name": stage_name(one.stage),
            "progress": one.progress,
            "overall": overall(one.recipe, one.stage, one.progress),
            "waiting_for": one.waiting_for,
            "next_try_at": one.next_try_at,
            "time_left": rounded,
        },
    )
