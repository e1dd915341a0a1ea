"""When is a series complete, and what follows from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pydicom import dcmread
from pydicom.dataset import Dataset

from mrisr_node.errors import NotEligible, SeriesError
from mrisr_node.intake.selection import SelectionRules, select
from mrisr_node.intake.spool import Spool
from mrisr_node.records import Job, Series, State, StateError, transaction
from mrisr_node.settings import Settings
from mrisr_node.volumes.acquisition import read_acquisition

__all__ = ["Assembly"]

_log = logging.getLogger(__name__)

# A PACS that knows the number of instances ends the waiting early; it is asked once a series has
# been still for this long.
_STILL = 1.0

ExpectedInstances = Callable[[str, str], int | None]


class Assembly:
    """Follows received series until they are complete, then selects or skips them.

    Parameters
    ----------
    expected_instances
        Asked with study and series UID: how many instances the PACS says there are, or None.
    """

    def __init__(
        self,
        settings: Settings,
        expected_instances: ExpectedInstances = lambda _study, _series: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._spool = Spool(
            settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes
        )
        self._expected = expected_instances
        self._clock = clock
        self._asked: dict[int, float] = {}

    def sweep(self) -> list[Job]:
        """Complete what is complete and return the jobs that came out of it."""
        jobs = []
        for series in Series.select().where(
            Series.state.in_([State.RECEIVING.value, State.COMPLETE.value])
        ):
            try:
                if series.state == State.RECEIVING.value and not self._complete(series):
                    continue
                job = self._decide(series)
            except StateError:
                # A slice arrived in this very moment; the next sweep sees it.
                continue
            if job is not None:
                jobs.append(job)
        return jobs

    def _complete(self, series: Series) -> bool:
        quiet = self._clock() - series.last_instance_at
        if quiet < min(_STILL, self._settings.quiet_seconds):
            return False
        why = f"no further instance for {self._settings.quiet_seconds:g} s"
        if quiet < self._settings.quiet_seconds:
            # Asked once per standstill: an answer that says more must not end the waiting.
            if self._asked.get(series.id) == series.last_instance_at:
                return False
            self._asked[series.id] = series.last_instance_at
            received = len(self._spool.paths(series))
            if self._expected(series.study_instance_uid, series.series_instance_uid) != received:
                return False
            if not self._without_gap(series):
                return False
            why = f"the PACS knows {received} instances, all are here"
        self._asked.pop(series.id, None)
        with transaction():
            now = Series.get_by_id(series.id)
            if now.last_instance_at != series.last_instance_at:
                return False
            series.move(State.COMPLETE, why)
        return True

    def _without_gap(self, series: Series) -> bool:
        try:
            read_acquisition(self._headers(series))
        except NotEligible:
            return True
        except SeriesError:
            return False
        return True

    def _headers(self, series: Series) -> list[Dataset]:
        return [dcmread(path, stop_before_pixels=True) for path in self._spool.paths(series)]

    def _decide(self, series: Series) -> Job | None:
        """Select or skip a complete series."""
        rules = SelectionRules(self._settings.minimum_slices, self._settings.minimum_slice_distance)
        try:
            acquisition = select(self._headers(series), rules)
        except NotEligible as error:
            series.move(State.SKIPPED, str(error))
            _log.info("series %d skipped: %s", series.id, error)
            return None
        except SeriesError as error:
            series.move(State.FAILED, str(error))
            _log.warning("series %d failed: %s", series.id, error)
            return None
        except Exception as error:  # noqa: BLE001 - headers can be broken in any way
            series.move(State.FAILED, f"the headers cannot be used ({type(error).__name__})")
            _log.exception("series %d failed in selection", series.id)
            return None
        columns, rows, slices = acquisition.shape
        with transaction():
            series.move(State.QUEUED, f"{slices} slices, {acquisition.distance:.2f} mm apart")
            job = Job.create(
                series=series,
                recipe=self._settings.recipe.value,
                voxels=columns * rows * slices,
            )
        _log.info("series %d queued as job %d", series.id, job.id)
        return job
