"""Local copies of what is over go, once nobody needs them here any more.

A series loses its files (on the spool, and in its jobs' folders) when it has ended, its age is past
retention, and the PACS shows all of its instances; a series that is done also needs its result
confirmed there (``copies``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from peewee import fn

from mrisr_node import records
from mrisr_node.errors import DeliveryError
from mrisr_node.intake.quarantine import Quarantine
from mrisr_node.jobs.copies import (
    HeldByPacs,
    StillNeeded,
    delete_copies,
    forget_deleted_instances,
)
from mrisr_node.jobs.leftovers import remove_leftovers, size_of
from mrisr_node.records import Instance, Rejection, Series, State
from mrisr_node.settings import Settings

__all__ = ["Retention"]

_log = logging.getLogger(__name__)

_EVERY = 600.0
_DAY = 86_400.0
_HOUR = 3600.0
# A late slice is most likely soon after the end, and then needs the others.
_YOUNGEST = _HOUR
# So many series in one sweep: the PACS has more to do.
_AT_ONCE = 20
# So many series in a row that the PACS cannot be asked about are no fault of theirs: it is down.
_DOWN = 3
_LEFTOVERS_EVERY = 6 * 3600.0


class Retention:
    """Deletes local copies that are past retention.

    Parameters
    ----------
    held_by_pacs
        Asked about every series whose copies are past retention.
    """

    def __init__(
        self,
        settings: Settings,
        held_by_pacs: HeldByPacs,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._held = held_by_pacs
        self._clock = clock
        self._quarantine = Quarantine(settings)
        # Series that the PACS does not show whole, or says nothing of, and when to ask again.
        self._kept: dict[int, float] = {}
        self._in_vain = 0
        self._leftovers_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Sweep until told to stop, in a thread: PACS and disk may be slow, and others wait."""
        while True:
            try:
                with records.connection():
                    self.sweep()
            except Exception:  # noqa: BLE001 - the next sweep may go
                _log.exception("retention failed")
            if stop.wait(_EVERY):
                return

    def sweep(self) -> None:
        """Delete what is due, oldest first."""
        settings = self._settings
        self._in_vain = 0
        try:
            self._by_age([State.DONE], settings.retention_days)
            self._by_age(
                [State.SKIPPED, State.FAILED, State.CANCELLED], settings.retention_failed_days
            )
            self._by_size()
        except DeliveryError as error:
            _log.warning("no local copies are deleted: %s", error)
        self._quarantined()
        now = self._clock()
        if not 0 <= now - self._leftovers_at < _LEFTOVERS_EVERY:
            self._leftovers_at = now
            remove_leftovers(settings, now)

    def reopen(self) -> None:
        """Forget the deleted instances of series that opened again, so that they are asked for."""
        opened = Series.select().where(
            Series.state == State.RECEIVING.value, Series.copies_deleted_at.is_null(False)
        )
        # Read to the end before anything is written (see `Assembly.sweep`).
        for series in list(opened):
            with records.transaction():
                gone = forget_deleted_instances(self._settings, series)
            _log.info(
                "series %d opened again; %d deleted instances are to come again",
                series.id,
                gone,
            )

    def _by_age(self, states: list[State], days: float | None) -> None:
        if days is None:
            return
        for series in self._ended(states, self._clock() - days * _DAY):
            self._delete(series, f"older than {days:g} day{'' if days == 1 else 's'}")

    def _by_size(self) -> None:
        """Make room: what is done goes before its time while all of it together is too large."""
        limit = self._settings.retention_bytes
        if limit is None:
            return
        settings = self._settings
        folders = (settings.spool_dir, settings.work_dir, settings.quarantine_dir)
        excess = sum(size_of(folder) for folder in folders) - limit
        if excess <= 0:
            return
        for series in self._ended([State.DONE], self._clock() - _YOUNGEST):
            if excess <= 0:
                return
            excess -= self._delete(series, "retention_bytes is exceeded")

    def _ended(self, states: list[State], before: float) -> Iterator[Series]:
        """Yield series that ended before a time and still have copies, oldest first."""
        now, yielded = self._clock(), 0
        rows = Instance.select().where(Instance.series == Series.id)
        ended = (
            Series.select()
            .where(
                Series.state.in_([state.value for state in states]),
                Series.state_at < before,
                Series.copies_deleted_at.is_null(),
                fn.EXISTS(rows),
            )
            .order_by(Series.state_at)
        )
        for series in list(ended):
            if self._kept.get(series.id, 0.0) <= now and yielded < _AT_ONCE:
                yielded += 1
                yield series

    def _delete(self, series: Series, why: str) -> int:
        """Delete the copies of a series; return how many bytes that frees."""
        try:
            shown = self._held(series.study_instance_uid, series.series_instance_uid)
        except DeliveryError as error:
            self._in_vain += 1
            # The next ones are tried; an outage must not keep those that it met for a day.
            self._kept[series.id] = self._clock() + _HOUR
            if self._in_vain == _DOWN:
                raise
            _log.warning("series %d is past retention (%s) and stays: %s", series.id, why, error)
            return 0
        self._in_vain = 0
        try:
            freed = delete_copies(self._settings, series, shown, self._clock())
        except StillNeeded as error:
            if error.missing:
                self._kept[series.id] = self._clock() + _DAY
                _log.warning(
                    "series %d is past retention (%s) and stays: %s", series.id, why, error
                )
            return 0
        _log.info("local copies of series %d deleted: %s", series.id, why)
        return freed

    def _quarantined(self) -> None:
        days = self._settings.retention_quarantine_days
        if days is None:
            return
        before = self._clock() - days * _DAY
        count = 0
        for row in list(Rejection.select().where(Rejection.at < before).order_by(Rejection.at)):
            self._quarantine.remove(row)
            count += 1
        if count:
            _log.info("%d objects in quarantine deleted: older than %g days", count, days)
