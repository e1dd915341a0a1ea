"""When is a series complete, and what follows from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydicom import dcmread
from pydicom.dataset import Dataset

from mrisr_node.delays import is_due, retry_delay
from mrisr_node.errors import NotEligible, SeriesError
from mrisr_node.intake.selection import SELECTION_TAGS, Selection, SelectionRules, select
from mrisr_node.intake.spool import Spool
from mrisr_node.records import Failure, Job, Series, State, StateError, transaction
from mrisr_node.settings import Settings
from mrisr_node.volumes.acquisition import read_acquisition

__all__ = ["Assembly"]

_log = logging.getLogger(__name__)

# A PACS that knows the number of instances ends the waiting early, or prolongs it; it is asked once
# a series has been still for this long, and again now and then (seconds).
_STILL = 1.0
_ASK_AGAIN = 5.0
# How many quiet times to wait for instances that the PACS has and the node has not.
_PATIENCE = 6
# Until a series is tried again whose files could not be read: seconds, doubled each time.
_FIRST_DELAY = 5.0

ExpectedInstances = Callable[[str, str], int | None]


@dataclass(frozen=True)
class _Evidence:
    """What speaks for or against a series being complete, at one time."""

    at: float
    since: float
    received: int
    expected: int | None
    regular: bool


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
        self._evidences: dict[int, _Evidence] = {}
        self._put_off: dict[int, tuple[int, float]] = {}
        """Vain tries to read a series, and when it is tried again."""

    def sweep(self) -> list[Job]:
        """Complete what is complete and return the jobs that came out of it."""
        jobs = []
        open_series = Series.select().where(
            Series.state.in_([State.RECEIVING.value, State.COMPLETE.value])
        )
        # Read to the end first: within a read that is under way, SQLite refuses a write at once
        # where another process has written meanwhile, however long it may wait for locks.
        for series in list(open_series):
            try:
                if series.state == State.RECEIVING.value and not self._complete(series):
                    continue
                if not is_due(self._put_off.get(series.id, (0, 0.0))[1], self._clock()):
                    continue
                job = self._decide(series)
            except StateError:
                # A slice arrived in this very moment; the next sweep sees it.
                continue
            if job is not None:
                jobs.append(job)
        return jobs

    def _complete(self, series: Series) -> bool:
        """Move a series on once nothing more is to be expected."""
        quiet = self._clock() - series.last_instance_at
        silence = self._settings.quiet_seconds
        if quiet < 0:
            self._begin_anew(series)
            return False
        if quiet < min(_STILL, silence):
            return False
        evidence = self._evidence(series)
        expected, received = evidence.expected, evidence.received
        if expected is None:
            complete, why = quiet >= silence, f"no further instance for {silence:g} s"
        elif received == expected:
            complete = evidence.regular or quiet >= silence
            known = "the only instance" if expected == 1 else f"all {expected} instances"
            why = f"{known} that the PACS knows {'is' if expected == 1 else 'are'} here"
        elif received > expected:
            complete, why = quiet >= silence, f"no further instance for {silence:g} s"
        else:
            # Long enough for the PACS to be asked twice to send the rest (jobs/reconcile).
            patience = _PATIENCE * silence + 2 * self._settings.reconcile_seconds
            complete = quiet >= patience
            if not complete and quiet >= silence:
                self._say_what_is_missing(series, received, expected)
            why = f"{received} of {expected} instances that the PACS knows arrived"
        if not complete:
            return False
        del self._evidences[series.id]
        self._put_off.pop(series.id, None)
        with transaction():
            if Series.get_by_id(series.id).last_instance_at != series.last_instance_at:
                return False
            Series.update(expected_instances=expected).where(Series.id == series.id).execute()
            series.move(State.COMPLETE, why)
        return True

    def _say_what_is_missing(self, series: Series, received: int, expected: int) -> None:
        words = f"waiting for {expected - received} of {expected} instances that the PACS has"
        if (series.reason, series.expected_instances) != (words, expected):
            Series.update(reason=words, expected_instances=expected).where(
                Series.id == series.id, Series.last_instance_at == series.last_instance_at
            ).execute()

    def _begin_anew(self, series: Series) -> None:
        """Start the quiet time of a series whose last instance came by a clock that was ahead."""
        Series.update(last_instance_at=self._clock()).where(
            Series.id == series.id, Series.last_instance_at == series.last_instance_at
        ).execute()

    def _evidence(self, series: Series) -> _Evidence:
        """Look at a standing series, and again when something arrived or some time has passed."""
        known, now = self._evidences.get(series.id), self._clock()
        same = known is not None and known.since == series.last_instance_at
        if known and same and 0 <= now - known.at < _ASK_AGAIN:
            return known
        evidence = _Evidence(
            at=now,
            since=series.last_instance_at,
            received=len(self._spool.paths(series)),
            expected=self._expected(series.study_instance_uid, series.series_instance_uid),
            regular=self._without_gap(series),
        )
        self._evidences[series.id] = evidence
        if evidence.expected not in (None, series.expected_instances):
            # Whoever waits for the series is told how many are to come.
            Series.update(expected_instances=evidence.expected).where(
                Series.id == series.id
            ).execute()
        return evidence

    def _without_gap(self, series: Series) -> bool:
        try:
            read_acquisition(self._headers(series))
        except SeriesError:
            return False
        except Exception:  # noqa: BLE001 - whatever is wrong with it, selection will say
            return True
        return True

    def _headers(self, series: Series) -> Iterator[Dataset]:
        """Read one after the other, and of each only what is looked at: makers' elements are large.

        This process holds the door, too.
        """
        for path in self._spool.paths(series):
            yield dcmread(path, stop_before_pixels=True, specific_tags=list(SELECTION_TAGS))

    def _decide(self, series: Series) -> Job | None:
        """Select or skip a complete series."""
        rules = SelectionRules(self._settings.minimum_slices, self._settings.minimum_slice_distance)
        try:
            if not self._spool.paths(series):
                raise SeriesError(
                    "nothing of it has arrived; the PACS is asked for it now and then"
                )
            selection = select(self._headers(series), rules)
        except NotEligible as error:
            series.move(State.SKIPPED, str(error))
            return None
        except SeriesError as error:
            self._fail(series, error, str(error))
            return None
        except Exception as error:  # noqa: BLE001 - headers can be broken in any way
            if _passes(error):
                self._later(series, error)
                return None
            self._fail(series, error, f"the headers cannot be used ({type(error).__name__})")
            _log.exception("series %d failed in selection", series.id)
            return None
        with transaction():
            series.move(State.QUEUED, _words(selection))
            job = Job.create(
                series=series,
                recipe=self._settings.recipe.value,
                voxels=sum(stack.voxels for stack in selection.stacks),
            )
        _log.info("series %d queued as job %d", series.id, job.id)
        return job

    def _later(self, series: Series, error: Exception) -> None:
        """Put off a series that nothing is known against."""
        tries = self._put_off.get(series.id, (0, 0.0))[0] + 1
        delay = retry_delay(tries, _FIRST_DELAY)
        self._put_off[series.id] = tries, self._clock() + delay
        words = f"its files cannot be read now ({type(error).__name__}); next try in {delay:.0f} s"
        _log.error("series %d: %s", series.id, words, exc_info=True)
        with transaction():
            Series.update(reason=words).where(
                Series.id == series.id, Series.state == State.COMPLETE.value
            ).execute()
            Failure.create(series=series, stage="selection", kind=type(error).__name__)

    def _fail(self, series: Series, error: Exception, reason: str) -> None:
        with transaction():
            series.move(State.FAILED, reason)
            Failure.create(series=series, stage="selection", kind=type(error).__name__)


def _words(selection: Selection) -> str:
    found = []
    for stack in selection.stacks:
        words = f"{len(stack.acquisition.slices)} slices, {stack.acquisition.distance:.2f} mm apart"
        found.append(f"{stack.label}: {words}" if len(selection.stacks) > 1 else words)
    return "; ".join((*found, *selection.left_out))


def _passes(error: Exception) -> bool:
    """Tell whether it is the machine's fault: a full memory, a disk that does not answer."""
    if isinstance(error, FileNotFoundError):
        return False
    return isinstance(error, (MemoryError, OSError))
