"""Why nothing was made of a series, told to its study in the PACS (setting ``report_refusals``)."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from peewee import PeeweeException

from mrisr_node import records
from mrisr_node.delays import is_due, retry_delay
from mrisr_node.errors import ConversionError, NodeError
from mrisr_node.intake.spool import Spool
from mrisr_node.jobs.stages import SENDING, Stage
from mrisr_node.jobs.workspace import read_headers
from mrisr_node.records import Instance, Job, RefusalReport, Series, State
from mrisr_node.results.delivery import Pacs
from mrisr_node.results.refusal import refusal_series_uid, write_refusal
from mrisr_node.settings import Settings
from mrisr_node.volumes.acquisition import of_one_patient

__all__ = ["Refusals"]

_log = logging.getLogger(__name__)

_EVERY = 10.0
_DAY = 86_400.0


class Refusals:
    """Sends a small report for each series that was selected and then not processed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spool = Spool(
            settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes
        )
        self._tries: dict[int, tuple[int, float]] = {}
        """Of each series: how often it was tried in vain, and when it is its turn again."""
        self._untellable: set[int] = set()
        """Series whose instances do not belong together."""

    def run(self, stop: threading.Event) -> None:
        """Send reports until told to stop."""
        while not stop.wait(_EVERY):
            try:
                with records.connection():
                    self.sweep()
            except PeeweeException:
                _log.warning("refusals are not looked at now", exc_info=True)

    def sweep(self) -> int:
        """Send the reports that are due; return how many the PACS took."""
        sent = 0
        for series in self._untold():
            tries, due = self._tries.get(series.id, (0, 0.0))
            if series.id in self._untellable or not is_due(due, time.time()):
                continue
            try:
                self._send(series)
            except ConversionError as error:
                self._untellable.add(series.id)
                _log.warning("series %d: its refusal is told nowhere: %s", series.id, error)
            except Exception as error:  # noqa: BLE001 - odd headers are what gets refused
                delay = retry_delay(tries + 1, self._settings.delivery_first_delay)
                self._tries[series.id] = tries + 1, time.time() + delay
                known = isinstance(error, NodeError)
                words = str(error) if known else type(error).__name__
                _log.warning("series %d: its refusal is not told yet: %s", series.id, words)
            else:
                self._tries.pop(series.id, None)
                sent += 1
        return sent

    def _untold(self) -> list[Series]:
        told = RefusalReport.select(RefusalReport.series).where(
            RefusalReport.failed_at == Series.state_at
        )
        # A result that the PACS has, or did not take, is no refusal.
        sent = Job.stage.in_([stage.value for stage in SENDING]) | Job.delivered_at.is_null(False)
        has_result = Job.select(Job.series).where(sent)
        received = Instance.select(Instance.series)
        # Whoever turns the setting on does not mean the archive.
        since = time.time() - self._settings.reconcile_days * _DAY
        return list(
            Series.select().where(
                Series.state == State.FAILED.value,
                Series.state_at > since,
                Series.copies_deleted_at.is_null(),
                Series.id.in_(received),
                Series.id.not_in(has_result),
                Series.id.not_in(told),
            )
        )

    def _send(self, series: Series) -> None:
        reason = _without_stage(series.reason)
        uid = refusal_series_uid(series.series_instance_uid, reason)
        # Tried again, and failed for the same reason: its study knows.
        if not RefusalReport.select().where(RefusalReport.series_instance_uid == uid).exists():
            self._store(series, reason)
            _log.info("series %d: its study has a report that says why nothing was made", series.id)
        RefusalReport.create(
            series=series,
            series_instance_uid=uid,
            failed_at=series.state_at,
            sent_at=time.time(),
        )

    def _store(self, series: Series, reason: str) -> None:
        # One of slices of two patients would tell each of the other.
        sources = list(of_one_patient(read_headers(self._spool.paths(series))))
        at = datetime.fromtimestamp(series.state_at, tz=UTC)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "refusal.dcm"
            write_refusal(path, sources, reason, at)
            Pacs(self._settings).store([path], lambda _: None)


def _without_stage(reason: str) -> str:
    """Return a reason for people: without the name of the stage that found it."""
    stage, colon, words = reason.partition(": ")
    return words if colon and stage in {one.value for one in Stage} else reason
