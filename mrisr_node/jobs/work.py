"""Working on a job: take it, run its stages, hand it on, say how it ended."""

from __future__ import annotations

import json
import logging
import shutil
import time
from typing import Any

from peewee import PeeweeException, fn

from mrisr_node import records
from mrisr_node.beats import alive
from mrisr_node.choices import Recipe
from mrisr_node.counts import counted
from mrisr_node.delays import Jitter, is_due, jitter, retry_delay
from mrisr_node.durable import is_disk_full
from mrisr_node.errors import (
    DeliveryError,
    NodeError,
    NotEligible,
    NotYet,
    ResultGone,
    SeriesError,
    StageError,
)
from mrisr_node.intake.spool import Spool
from mrisr_node.jobs.findings import previews_of
from mrisr_node.jobs.given_files import FILES_READY, goes_to_pacs, keep_files, with_given_files
from mrisr_node.jobs.history import (
    left_out_of,
    note_result_series,
    predecessors_of,
    remarks_on,
    seconds_of,
    stacks_of,
)
from mrisr_node.jobs.lease import HEARTBEAT, Deadline, renewed
from mrisr_node.jobs.pipeline import outcome, run_stage
from mrisr_node.jobs.progress import ProgressWriter
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.recovery import retry
from mrisr_node.jobs.runs import begin_run, seconds_of_run
from mrisr_node.jobs.stages import (
    LEASE_SECONDS,
    SENDING,
    Queue,
    Stage,
    following,
    queue_of,
    stages_of,
    state_of,
    worker_name,
)
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.logs import words_of
from mrisr_node.records import (
    ACTIVE,
    DIED,
    DISK_FULL,
    Failure,
    Job,
    Series,
    State,
    StateError,
    Transition,
)
from mrisr_node.settings import Settings
from mrisr_node.superres.peak_memory import own_peak, reset_own_peak

__all__ = ["Worker"]

_log = logging.getLogger(__name__)


class Worker:
    """Runs jobs of one queue in this process."""

    def __init__(self, settings: Settings, jitter: Jitter = jitter) -> None:
        self._settings = settings
        self._jitter = jitter
        self._owner = records.owner_name()
        self._deadline = Deadline(settings.stage_hours * 3600)
        self._spool = Spool(
            settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes
        )
        self._queues = Queues(settings, self.advance)

    def run(self, queue: Queue) -> None:
        """Work on a queue until the process is told to stop."""
        _log.info("worker for %s starts", queue.value)
        with alive(worker_name(queue)):
            self._queues.consume(queue)
        # Told to stop, not killed: what it worked on goes on elsewhere and was no failed attempt.
        Job.update(lease_owner=None, lease_until=0.0).where(
            Job.lease_owner == self._owner
        ).execute()

    def advance(self, queue: Queue, job_id: int) -> None:
        """Run the stages of a job that belong to `queue`, then hand it on."""
        with records.connection():
            job = self._take(queue, job_id)
            if job is None:
                return
            try:
                with renewed(job, self._owner, self._deadline):
                    self._run_stages(queue, job)
            except Exception:
                self._give_back(job)
                raise

    def _take(self, queue: Queue, job_id: int) -> Job | None:
        """Lease a job, unless it is somebody else's, another queue's, or no longer wanted."""
        with records.transaction():
            job: Job | None = Job.get_or_none(Job.id == job_id)
            now = time.time()
            if job is None or not _wanted(job) or not is_due(job.not_before, now):
                return None
            stage = _current(job)
            if queue_of(stage) is not queue:
                return None
            if job.lease_owner is not None:
                if job.lease_until > now:
                    return None
                job.attempts += 1  # its owner died
                Failure.create(series=job.series_id, stage=stage.value, kind=DIED)
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
                _log.info("job %d is no longer ours, or no longer wanted", job.id)
                self._leave(job)
                return
            except ResultGone as error:
                self._begin_anew(job, stage, error)
                return
            except (NotEligible, SeriesError, StageError) as error:
                self._end(job, State.FAILED, f"{stage.value}: {error}")
                return
            except DeliveryError as error:
                self._later(job, stage, error)
                return
            except NotYet as error:
                job.stage, job.not_before = stage.value, time.time() + error.delay
                self._wait(job, str(error), error.delay)
                return
            except Exception as error:  # noqa: BLE001 - a job never ends without a reason
                if is_disk_full(error):
                    self._await_room(job, stage, error)
                    return
                _log.exception("job %d failed in %s", job.id, stage.value)
                self._retry_or_end(job, stage, error)
                return
            # Storing and what proves it count as one: a PACS that takes everything and shows
            # nothing must not be tried for ever.
            if stage not in SENDING:
                job.attempts = 0
            stage = following(recipe, stage)
            if stage is Stage.STORE and not goes_to_pacs(job):
                stage = None
            job.stage, job.progress = (stage.value if stage else ""), 0.0
            if stage is not None:
                # Not where the job was taken over meanwhile, and may be further on.
                Job.update(stage=job.stage, progress=0.0, attempts=job.attempts).where(
                    Job.id == job.id, Job.lease_owner == self._owner
                ).execute()
        if stage is None:
            there = "the result is in the PACS" if goes_to_pacs(job) else FILES_READY
            words = ". ".join((there, *remarks_on(job), *left_out_of(job)))
            if self._end(job, State.DONE, words):
                shutil.rmtree(self._settings.work_dir / str(job.id), ignore_errors=True)
        else:
            self._release(job)
            self._queues.send(queue_of(stage), job.id)

    def _run_stage(self, stage: Stage, job: Job) -> None:
        series = Series.get_by_id(job.series_id)
        with records.transaction():
            self._require_mine(job)
            if State(series.state) is not state_of(stage):
                series.move(state_of(stage))
            else:
                # Why it had to wait is no news any more.
                Series.update(reason="").where(Series.id == series.id).execute()
            run = begin_run(job, stage)
        if job.attempts >= self._allowed(stage):
            raise StageError(
                f"died {counted(job.attempts, 'time')} (killed, out of memory, or hanging for"
                " longer than stage_hours); the worker's log says more"
            )
        _log.info("job %d: %s", job.id, stage.value)
        self._deadline.begin()
        measured = reset_own_peak()
        started = time.monotonic()
        workspace = Workspace(
            folder=self._settings.work_dir / str(job.id),
            sources=tuple(self._spool.paths(series)),
            settings=self._settings,
            recipe=Recipe(job.recipe),
            progress=ProgressWriter(job.id, lambda: self._require_use(job, stage)),
            remarks=remarks_on(job),
            previews=previews_of(self._settings, job.id),
            predecessors=predecessors_of(job),
            seconds=seconds_of(job),
        )
        try:
            run_stage(stage, with_given_files(workspace, series))
            known = outcome(workspace)
            if stage in (Stage.WRITE, Stage.PAIRS):
                keep_files(self._settings, job)
        except (_Superseded, StateError, NotYet):
            raise  # nothing failed: the series moved on, or the PACS still has time to answer
        except Exception as error:
            full = not isinstance(error, NodeError) and is_disk_full(error)
            kind = DISK_FULL if full else type(error).__name__
            Failure.create(series=job.series_id, stage=stage.value, kind=kind)
            raise
        run.seconds, run.finished = seconds_of_run(run, time.monotonic() - started), True
        run.peak_bytes = own_peak() if measured else None
        job.outcome = json.dumps(known)
        if stage is Stage.WRITE:
            results = [stack["result"] for stack in stacks_of(job)]
            job.result_series_uid = results[0]["series_instance_uid"]
            job.result_instances = sum(result["instances"] for result in results)
        elif stage is Stage.CONFIRM:
            job.delivered_at = time.time()
        elif stage is Stage.COMMIT:
            job.committed_at = known.get("commitment", {}).get("committed_at")
        # What was found out counts only if the job still does when it is written down.
        with records.transaction():
            self._require_mine(job)
            run.save()
            if stage is Stage.WRITE:
                note_result_series(job)
            job.save(only=[Job.outcome, Job.result_series_uid, Job.result_instances,
                           Job.delivered_at, Job.committed_at])  # fmt: skip

    def _allowed(self, stage: Stage) -> int:
        """Return how often a stage may be tried; delivery waits for a PACS that is down."""
        if queue_of(stage) is Queue.DELIVERY:
            return self._settings.delivery_attempts
        return self._settings.maximum_attempts

    def _later(self, job: Job, stage: Stage, error: NodeError) -> None:
        """Try again after a delay that doubles, or give up visibly."""
        job.attempts += 1
        if job.attempts >= self._allowed(stage):
            self._end(
                job, State.FAILED, f"{stage.value}: {error} (tried {counted(job.attempts, 'time')})"
            )
            return
        delay = retry_delay(job.attempts, self._settings.delivery_first_delay, self._jitter)
        # What was stored and is not shown, or not kept, is lost: store again before asking again.
        stage = Stage.STORE if stage in SENDING else stage
        job.stage, job.progress, job.not_before = stage.value, 0.0, time.time() + delay
        job.delivered_at = None
        self._wait(job, str(error), delay)

    def _retry_or_end(self, job: Job, stage: Stage, error: Exception) -> None:
        job.attempts += 1
        words = words_of(error)[:300]
        if job.attempts >= self._allowed(stage):
            self._end(
                job, State.FAILED, f"{stage.value}: {words} (tried {counted(job.attempts, 'time')})"
            )
            return
        delay = retry_delay(job.attempts, self._settings.delivery_first_delay, self._jitter)
        job.not_before = time.time() + delay
        self._wait(job, f"{stage.value}: {words}", delay)

    def _await_room(self, job: Job, stage: Stage, error: Exception) -> None:
        """Try again as patiently as delivery does; it is no attempt of the stage's own."""
        queued = Transition.select(fn.MAX(Transition.at)).where(
            Transition.series == job.series_id, Transition.target == State.QUEUED.value
        )
        tries = max(1, self._failures(job, DISK_FULL).where(Failure.at >= queued).count())
        words = f"{stage.value}: {words_of(error)[:300]}"
        if tries >= self._settings.delivery_attempts:
            self._end(job, State.FAILED, f"{words} (tried {counted(tries, 'time')})")
            return
        delay = retry_delay(tries, self._settings.delivery_first_delay, self._jitter)
        job.stage, job.progress, job.not_before = stage.value, 0.0, time.time() + delay
        self._wait(job, words, delay)

    def _failures(self, job: Job, kind: str) -> Any:  # noqa: ANN401 - peewee's query
        of = Failure.series == job.series_id, Failure.kind == kind, Failure.at >= job.created_at
        return Failure.select().where(*of)

    def _begin_anew(self, job: Job, stage: Stage, error: ResultGone) -> None:
        """Compute a job anew, once by itself: a disk that damages all the time needs a look."""
        job.stage = ""
        words = f"{stage.value}: {error}"
        with records.transaction():
            if self._failures(job, ResultGone.__name__).count() > 1:
                self._end(job, State.FAILED, f"{words}; try again, and it is computed anew")
                return
            if self._end(job, State.FAILED, words):
                retry(job.series_id, f"{words}; it is computed anew")
        self._queues.send(queue_of(_current(job)), job.id)

    def _wait(self, job: Job, reason: str, delay: float) -> None:
        """Let go of a job until its next try, and say why."""
        with records.transaction():
            if self._mine(job):
                job.save(only=[Job.stage, Job.progress, Job.not_before, Job.attempts,
                               Job.delivered_at])  # fmt: skip
                Series.update(reason=f"{reason}; next try in {delay:.0f} s").where(
                    Series.id == job.series_id
                ).execute()
            self._release(job)
        _log.warning("job %d: %s; next try in %.0f s", job.id, reason, delay)

    def _end(self, job: Job, state: State, reason: str) -> bool:
        """Write down how a job ended; return whether it was still ours to end."""
        if state is State.FAILED and job.stage in SENDING:
            reason += ". The result is kept and can be sent again"
        with records.transaction():
            if not self._mine(job):
                self._leave(job)
                return False
            Series.get_by_id(job.series_id).move(state, reason)
            job.finished_at = time.time()
            job.save(only=[Job.finished_at, Job.stage])
            self._release(job)
        _log.info("job %d %s: %s", job.id, state.value, reason)
        return True

    def _leave(self, job: Job) -> None:
        """Let go of a job that another one took the place of, or another worker took."""
        with records.transaction():
            if not _wanted(job):
                Job.update(finished_at=time.time()).where(Job.id == job.id).execute()
            self._release(job)

    def _mine(self, job: Job) -> bool:
        """Tell whether this worker still holds the job, and the job still counts."""
        return self._holds(job) and _wanted(job)

    def _holds(self, job: Job) -> bool:
        return bool(Job.get_by_id(job.id).lease_owner == self._owner)

    def _require_use(self, job: Job, stage: Stage) -> None:
        """Raise where a stage need not go on.

        What is being stored is stored whole, though a late slice has come: no half series stays in
        the PACS, and the newer result names it as the earlier one.
        """
        if not (stage is Stage.STORE and self._holds(job)):
            self._require_mine(job)

    def _require_mine(self, job: Job) -> None:
        if not self._mine(job):
            raise _Superseded

    def _release(self, job: Job) -> None:
        Job.update(lease_owner=None, lease_until=0.0).where(
            Job.id == job.id, Job.lease_owner == self._owner
        ).execute()

    def _give_back(self, job: Job) -> None:
        """Let go of a job of which nothing could be written down, or it would look like a death.

        Without the records there is nothing else to do.
        """
        while True:
            try:
                self._release(job)
                return
            except PeeweeException:
                _log.warning("job %d is not given back yet", job.id, exc_info=True)
                time.sleep(HEARTBEAT)


class _Superseded(Exception):
    """The series got another slice, or another job, while this one worked."""


def _current(job: Job) -> Stage:
    return Stage(job.stage) if job.stage else stages_of(Recipe(job.recipe))[0]


def _wanted(job: Job) -> bool:
    """Tell whether a job is still the newest of a series that is being processed."""
    series = Series.get_by_id(job.series_id)
    newest = Job.select().where(Job.series == series).order_by(Job.id.desc()).get()
    return State(series.state) in ACTIVE and newest.id == job.id
