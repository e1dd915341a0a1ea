"""The rounds of the receiving process: complete series, wake jobs, ask the PACS, tidy up."""

from __future__ import annotations

import logging
import threading
import time

from mrisr_node.beats import alive
from mrisr_node.intake.assembly import Assembly
from mrisr_node.intake.commitment_reports import CommitmentReports
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.reconcile import Reconciler
from mrisr_node.jobs.recovery import Unrenewed, recover
from mrisr_node.jobs.retention import Retention
from mrisr_node.jobs.stages import queue_of, stages_of
from mrisr_node.results.delivery import Pacs
from mrisr_node.settings import Recipe, Settings

__all__ = ["Rounds"]

_log = logging.getLogger(__name__)

_EVERY = 0.5
_RECOVER_EVERY = 5.0
_RETAIN_EVERY = 600.0


class Rounds:
    """What has to be looked at again and again, in one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queues = Queues(settings)
        self._reconciler = Reconciler(settings)
        self._assembly = Assembly(settings, self._reconciler.expected_instances)
        self._retention = Retention(settings, Pacs(settings).instances)
        self._unrenewed: Unrenewed = {}
        self._recovered = self._reconciled = self._retained = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Make rounds until told to stop; what fails in one is logged and tried in the next."""
        reports = threading.Thread(
            target=CommitmentReports(self._settings).run, args=(stop,), name="commitment reports"
        )
        reports.start()
        with alive("rounds"):
            while not stop.wait(_EVERY):
                try:
                    self.round()
                except Exception:  # noqa: BLE001 - the rounds must go on
                    _log.exception("a round failed")
        reports.join()
        self._reconciler.close()

    def round(self) -> None:
        """Make one round."""
        self._retention.reopen()
        for job in self._assembly.sweep():
            self._queues.send(queue_of(stages_of(Recipe(job.recipe))[0]), job.id)
        now = time.monotonic()
        if now - self._recovered >= _RECOVER_EVERY:
            self._recovered = now
            recover(self._queues, self._unrenewed)
        if now - self._reconciled >= self._settings.reconcile_seconds:
            self._reconciled = now
            self._reconciler.sweep()
        if now - self._retained >= _RETAIN_EVERY:
            self._retained = now
            self._retention.sweep()
