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
from mrisr_node.errors import NodeError
from mrisr_node.intake.spool import Spool
from mrisr_node.jobs.stages import SENDING
from mrisr_node.jobs.workspace import read_headers
from mrisr_node.records import Job, RefusalReport, Series, State
from mrisr_node.results.delivery import Pacs
from mrisr_node.results.refusal import write_refusal
from mrisr_node.settings import Settings

__all__ = ["Refusals"]

_log = logging.getLogger(__name__)

_EVERY = 10.0


class Refusals:
    """Sends a small report for each series that was selected and then not processed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spool = Spool(
            settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes
        )
        self._tries: dict[int, tuple[int, float]] = {}
        """Of each series: how often it was tried in vain, and when it is its turn again."""

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
            if not is_due(due, time.time()):
                continue
            try:
                self._send(series)
            except (NodeError, OSError) as error:
                delay = retry_delay(tries + 1, self._settings.delivery_first_delay)
                self._tries[series.id] = tries + 1, time.time() + delay
                _log.warning("series %d: its refusal is not told yet: %s", series.id, error)
            else:
                self._tries.pop(series.id, None)
                sent += 1
        return sent

    def _untold(self) -> list[Series]:
        told = RefusalReport.select(RefusalReport.series).where(
            RefusalReport.failed_at == Series.state_at
        )
        # A result that the PACS did not take is none: it is kept, and may be sent again.
        selected = Job.select(Job.series).where(Job.stage.not_in([s.value for s in SENDING]))
        return list(
            Series.select().where(
                Series.state == State.FAILED.value,
                Series.copies_deleted_at.is_null(),
                Series.id.in_(selected),
                Series.id.not_in(told),
            )
        )

    def _send(self, series: Series) -> None:
        sources = read_headers(self._spool.paths(series))
        at = datetime.fromtimestamp(series.state_at, tz=UTC)
        with tempfile.TemporaryDirectory(dir=self._settings.data_dir) as folder:
            path = Path(folder) / "refusal.dcm"
            write_refusal(path, sources, series.reason, at)
            Pacs(self._settings).store([path], lambda _: None)
        RefusalReport.create(series=series, failed_at=series.state_at, sent_at=time.time())
        _log.info("series %d: its study has a report that says why nothing was made", series.id)
