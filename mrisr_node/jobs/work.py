"""Working on a job: take it, run its stages, hand it on, say how it ended."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mrisr_node import records
from mrisr_node.errors import DeliveryError, NodeError, NotEligible, SeriesError, StageError
from mrisr_node.intake.spool import Spool
from mrisr_node.jobs.pipeline import Workspace, outcome, run_stage
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.stages import Queue, Stage, following, queue_of, stages_of, state_of
from mrisr_node.records import ACTIVE, Job, Series, StageRun, State, StateError
from mrisr_node.settings import Recipe, Settings

__all__ = ["LEASE_SECONDS", "Worker"]

_log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
_HEARTBEAT = 5.0
_PROGRESS_EVERY = 1.0
_LONGEST_DELAY = 3600.0


class Worker:
    """Runs jobs of one queue in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._owner = records.owner_name()
        self._spool = Spool(
            settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes
        )
        self._queues = Queues(settings, self.advance)

    def run(self, queue: Queue) -> None:
        """Work on a queue until the process is told to stop."""
        _log.info("worker for %s starts", queue.value)
        self._queues.consume(queue)

    def advance(self, queue: Queue, job_id: int) -> None:
        """Run the stages of a job that belong to `queue`, then hand it on."""
        with records.connection():
            job = self._take(queue, job_id)
            if job is None:
                return
            with self._heartbeat(job):
                self._run_stages(queue, job)

    def _take(self, queue: Queue, job_id: int) -> Job | None:
        """Lease a job, unless it is somebody else's, another queue's, or no longer wanted."""
        with records.transaction():
            job: Job | None = Job.get_or_none(Job.id == job_id)
            now = time.time()
            if job is None or not _wanted(job) or job.not_before > now:
                return None
            if job.lease_owner is not None and job.lease_until > now:
                return None
            stage = _current(job)
            if queue_of(stage) is not queue:
                return None
            job.stage = stage.value
            job.lease_owner, job.lease_until = self._owner, now + LEASE_SECONDS
            job.started_at = job.started_at or now
            job.save()
            return job

    def _run_stages(self, queue: Queue, job: Job) -> None:
        recipe = Recipe(job.recipe)
        stage: Stage | None = _current(job)
        while stage is not None and queue_of(stage) is queue:
            try:
                self._run_stage(stage, job)
            except (StateError, _Superseded):
                _log.info("job %d is superseded: its series changed", job.id)
                self._release(job)
                return
            except (NotEligible, SeriesError, StageError) as error:
                self._end(job, State.FAILED, f"{stage.value}: {error}")
                return
            except DeliveryError as error:
                self._later(job, stage, error)
                return
            except Exception as error:  # noqa: BLE001 - a job never ends without a reason
                _log.exception("job %d failed in %s", job.id, stage.value)
                self._retry_or_end(job, stage, error)
                return
            stage = following(recipe, stage)
            job.stage, job.progress, job.attempts = (stage.value if stage else ""), 0.0, 0
            if stage is not None:
                job.save(only=[Job.stage, Job.progress, Job.attempts])
        if stage is None:
            self._end(job, State.DONE, "the result is in the PACS")
        else:
            self._release(job)
            self._queues.send(queue_of(stage), job.id)

    def _run_stage(self, stage: Stage, job: Job) -> None:
        series = Series.get_by_id(job.series_id)
        with records.transaction():
            if not _wanted(job):
                raise _Superseded
            if State(series.state) is not state_of(stage):
                series.move(state_of(stage))
            job.attempts += 1
            job.save(only=[Job.attempts])
            run = StageRun.create(
                job=job, stage=stage.value, started_at=time.time(), voxels=job.voxels
            )
        if job.attempts > self._allowed(stage):
            raise StageError(
                f"died {self._allowed(stage)} times (killed, or out of memory);"
                " the worker's log says more"
            )
        _log.info("job %d: %s", job.id, stage.value)
        _reset_peak_memory()
        started = time.monotonic()
        workspace = Workspace(
            folder=self._settings.work_dir / str(job.id),
            sources=tuple(self._spool.paths(series)),
            settings=self._settings,
            recipe=Recipe(job.recipe),
            progress=_progress_writer(job),
        )
        run_stage(stage, workspace)
        run.seconds, run.finished = time.monotonic() - started, True
        run.peak_bytes = _peak_memory()
        run.save()
        known = outcome(workspace)
        job.outcome = json.dumps(known)
        if stage is Stage.WRITE:
            job.result_series_uid = known["result"]["series_instance_uid"]
            job.result_instances = known["result"]["instances"]
        job.save(only=[Job.outcome, Job.result_series_uid, Job.result_instances])

    def _allowed(self, stage: Stage) -> int:
        """Return how often a stage may be tried; delivery waits for a PACS that is down."""
        if queue_of(stage) is Queue.DELIVERY:
            return self._settings.delivery_attempts
        return self._settings.maximum_attempts

    def _later(self, job: Job, stage: Stage, error: NodeError) -> None:
        """Try again after a delay that doubles, or give up visibly."""
        if job.attempts >= self._allowed(stage):
            self._end(job, State.FAILED, f"{stage.value}: {error} (tried {job.attempts} times)")
            return
        delay = min(self._settings.delivery_first_delay * 2 ** (job.attempts - 1), _LONGEST_DELAY)
        # What was stored and is not shown may have been lost: store again before asking again.
        stage = Stage.STORE if stage is Stage.CONFIRM else stage
        job.stage, job.progress, job.not_before = stage.value, 0.0, time.time() + delay
        job.save(only=[Job.stage, Job.progress, Job.not_before])
        Series.update(reason=f"{error}; next try in {delay:.0f} s").where(
            Series.id == job.series_id
        ).execute()
        _log.warning("job %d: %s; next try in %.0f s", job.id, error, delay)
        self._release(job)

    def _retry_or_end(self, job: Job, stage: Stage, error: Exception) -> None:
        words = f"{type(error).__name__}: {error}"[:300]
        if job.attempts >= self._allowed(stage):
            self._end(job, State.FAILED, f"{stage.value}: {words} (tried {job.attempts} times)")
        else:
            job.not_before = time.time() + self._settings.delivery_first_delay
            job.save(only=[Job.not_before])
            self._release(job)

    def _end(self, job: Job, state: State, reason: str) -> None:
        with records.transaction():
            if _wanted(job):
                Series.get_by_id(job.series_id).move(state, reason)
            job.finished_at = time.time()
            job.save(only=[Job.finished_at, Job.stage])
            self._release(job)
        _log.info("job %d %s: %s", job.id, state.value, reason)

    def _release(self, job: Job) -> None:
        Job.update(lease_owner=None, lease_until=0.0).where(
            Job.id == job.id, Job.lease_owner == self._owner
        ).execute()

    @contextmanager
    def _heartbeat(self, job: Job) -> Iterator[None]:
        """Renew the lease from a thread while a stage computes."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(_HEARTBEAT):
                with records.connection():
                    Job.update(lease_until=time.time() + LEASE_SECONDS).where(
                        Job.id == job.id, Job.lease_owner == self._owner
                    ).execute()

        thread = threading.Thread(target=beat, daemon=True, name=f"lease of job {job.id}")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class _Superseded(Exception):
    """The series got another slice, or another job, while this one worked."""


def _current(job: Job) -> Stage:
    return Stage(job.stage) if job.stage else stages_of(Recipe(job.recipe))[0]


def _wanted(job: Job) -> bool:
    """Tell whether a job is still the newest of a series that is being processed."""
    series = Series.get_by_id(job.series_id)
    newest = Job.select().where(Job.series == series).order_by(Job.id.desc()).get()
    return State(series.state) in ACTIVE and newest.id == job.id


def _progress_writer(job: Job) -> _ProgressWriter:
    return _ProgressWriter(job.id)


class _ProgressWriter:
    """Writes progress to the records, at most once a second."""

    def __init__(self, job_id: int) -> None:
        self._job_id = job_id
        self._written = 0.0

    def __call__(self, part: float) -> None:
        now = time.monotonic()
        if now - self._written >= _PROGRESS_EVERY:
            self._written = now
            Job.update(progress=part).where(Job.id == self._job_id).execute()


def _reset_peak_memory() -> None:
    """Start measuring the peak anew (Linux: 5 in clear_refs resets VmHWM)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_memory() -> int | None:
    """Return the largest resident size since the reset, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return kilobytes[0] * 1024 if kilobytes else None
