"""The rounds of the receiving process: complete series, wake jobs, ask the PACS, tidy up."""

from __future__ import annotations

import logging
import threading
import time

from mrisr_node import records
from mrisr_node.beats import signs, write_beat
from mrisr_node.choices import Recipe
from mrisr_node.intake.assembly import Assembly
from mrisr_node.intake.commitment_reports import CommitmentReports
from mrisr_node.intake.patients import note_patients
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.reconcile import Reconciler
from mrisr_node.jobs.recovery import Unrenewed, recover
from mrisr_node.jobs.refusals import Refusals
from mrisr_node.jobs.retention import Retention
from mrisr_node.jobs.stages import queue_of, stages_of
from mrisr_node.jobs.uploads import Uploads
from mrisr_node.results.delivery import Pacs
from mrisr_node.settings import Settings

__all__ = ["Rounds"]

_log = logging.getLogger(__name__)

_EVERY = 0.5
_BEAT_EVERY = 5.0
_RECOVER_EVERY = 5.0
_BEAT = "rounds"


class Rounds:
    """What has to be looked at again and again, in one thread; what may take long has its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queues = Queues(settings)
        before = next((sign.details for sign in signs() if sign.process == _BEAT), {})
        self._reconciler = Reconciler(settings, compared_at=before.get("compared_at"))
        self._assembly = Assembly(settings, self._reconciler.expected_instances)
        self._retention = Retention(settings, Pacs(settings).instances)
        self._unrenewed: Unrenewed = {}
        self._owner = records.owner_name()
        self._patients_unknown = True
        self._beaten = self._recovered = self._reconciled = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Make rounds until told to stop; what fails in one is logged and tried in the next."""
        reports = CommitmentReports(self._settings)
        others = [
            threading.Thread(target=reports.run, args=(stop,), name="commitment reports"),
            threading.Thread(target=self._retention.run, args=(stop,), name="retention"),
            threading.Thread(target=Uploads(self._settings).run, args=(stop,), name="uploads"),
        ]
        if self._settings.report_refusals:
            refusals = Refusals(self._settings)
            others.append(threading.Thread(target=refusals.run, args=(stop,), name="refusals"))
        for thread in others:
            thread.start()
        while not stop.wait(_EVERY):
            try:
                self.round()
            except Exception:  # noqa: BLE001 - the rounds must go on
                _log.exception("a round failed")
        for thread in others:
            thread.join()
        self._reconciler.close()

    def round(self) -> None:
        """Make one round."""
        self._beat()
        self._reconciler.begin_round()
        self._retention.reopen()
        for job in self._assembly.sweep():
            self._queues.send(queue_of(stages_of(Recipe(job.recipe))[0]), job.id)
        if self._patients_unknown:
            self._patients_unknown = note_patients(self._settings.spool_dir)
        now = time.monotonic()
        if now - self._recovered >= _RECOVER_EVERY:
            self._recovered = now
            recover(self._queues, self._unrenewed)
        self._beat()
        due = now - self._reconciled >= self._settings.reconcile_seconds
        if due or self._reconciler.under_way:
            self._reconciled = now
            self._reconciler.sweep()

    def _beat(self) -> None:
        """Give a sign of life from within the round: one that hangs gives none."""
        now = time.monotonic()
        if now - self._beaten >= _BEAT_EVERY:
            # An outage may last: what the PACS got meanwhile is told by what is written here.
            write_beat(_BEAT, self._owner, {"compared_at": self._reconciler.compared_at})
            self._beaten = now
