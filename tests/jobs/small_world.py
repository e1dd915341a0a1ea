"""A whole node but for the computing: real spool, records, queues, assembly, recovery, workers.

The clock is a number, the PACS a dictionary, and every stage a function that reads what it needs,
keeps the order of things, and fails when it is told to. Everything else is the node's own code on
a real SQLite file.

Between any two statements that one process sends to the database outside of a transaction, another
process may act, or the first one may die: ``World.run`` lets either happen at a chosen step.
"""

import contextlib
import functools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

from pydicom.uid import MRImageStorage
from small_dicom import encoded_slice, instance_uid

from mrisr_node import records
from mrisr_node.choices import Recipe
from mrisr_node.errors import DeliveryError, SeriesError, StageError
from mrisr_node.identity import derive_uid
from mrisr_node.intake import assembly
from mrisr_node.intake.screening import screen
from mrisr_node.intake.spool import Spool
from mrisr_node.jobs import pipeline
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.recovery import recover
from mrisr_node.jobs.stages import Queue, Stage, queue_of, stages_of
from mrisr_node.jobs.work import Worker
from mrisr_node.jobs.workspace import Workspace
from mrisr_node.records import Job, Series, open_records
from mrisr_node.settings import Settings

SERIES = ("2.25.11", "2.25.12")
SLICES = 7
FAILURES = {
    "series": SeriesError("the slices are of cheese"),
    "stage": StageError("no such network"),
    "surprise": RuntimeError("out of tea"),
    "delivery": DeliveryError("the PACS is down"),
}


class Killed(BaseException):
    """What SIGKILL would do: nothing after it runs, and open transactions come to nothing."""


@functools.cache
def _dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


@dataclass
class Pacs:
    """What was stored, and what its QIDO-RS answers about the originals."""

    results: dict[str, frozenset[str]] = field(default_factory=dict)
    """The source instances of each result series that it shows."""
    expected: dict[str, int | None] = field(default_factory=dict)


class World:
    """One node from its first start on; `restart` is a new life of all its processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pacs = Pacs()
        self.now = 1_800_000_000.0
        self.made_of: dict[str, frozenset[str]] = {}
        """The sources of every result ever stored."""
        self.failures: list[str] = []
        """What the next stages do, in order; empty or unknown: they succeed."""
        self.before_selection: Callable[[], None] = lambda: None
        self._steps_left: int | None = None
        self._thread = threading.get_ident()
        self._then: Callable[[], None] = lambda: None
        self.deaths = 0
        self._dead = _dead_process()
        self._patches = contextlib.ExitStack()
        self._patches.enter_context(mock.patch.object(time, "time", self.clock))
        self._patches.enter_context(mock.patch.object(assembly, "select", self._select))
        stages = {stage: self._stage(stage) for stage in Stage}
        self._patches.enter_context(mock.patch.dict(pipeline._STAGES, stages))
        self.restart()

    def close(self) -> None:
        records.database.close()
        self._patches.close()

    def clock(self) -> float:
        self.now += 1e-3
        return self.now

    def restart(self) -> None:
        """Start every process anew on the same files; what the old ones held is left behind."""
        if records.database.obj is not None:
            records.database.close()
        open_records(self.settings.database_path)
        self._watch_statements()
        self._spool = Spool(self.settings.spool_dir, self.settings.quarantine_dir, 0)
        self._assembly = assembly.Assembly(
            self.settings, lambda _study, series: self._asked(series), self.clock
        )
        self.queues = Queues(self.settings)
        self.workers = [Worker(self.settings), Worker(self.settings)]

    # What the processes of a node do.

    def receive(self, series: int, number: int, sender: str, *, altered: bool = False) -> str:
        encoded = encoded_slice(SERIES[series], number, altered=altered)
        # Each time another receiver process: it may come while one is in the middle of a commit.
        spool = Spool(self.settings.spool_dir, self.settings.quarantine_dir, 0)
        # In this thread, where it can be interrupted.
        spool._commits.add = lambda kept: spool._commit([kept])[0]
        draft = spool.draft(encoded)
        draft.sync()
        header = screen(draft.path, MRImageStorage, instance_uid(SERIES[series], number))
        return spool.store(header, draft, sender)

    def sweep(self) -> None:
        """One round of `jobs/rounds` over the received series."""
        for job in self._assembly.sweep():
            self.queues.send(queue_of(stages_of(Recipe(job.recipe))[0]), job.id)

    def recover(self) -> None:
        recover(self.queues)

    def work(self, queue: Queue, worker: int = 0) -> bool:
        """Take one message, as Huey does: it is gone before the work begins."""
        task = self.queues._hueys[queue].dequeue()
        if task is None:
            return False
        self.wake(queue, int(task.args[0]), worker)
        return True

    def work_off(self, *workers: int) -> None:
        """Let workers take messages until there are none."""
        busy = True
        while busy:
            taken = [self.work(queue, worker) for queue in Queue for worker in workers]
            busy = any(taken)

    def wake(self, queue: Queue, job: int, worker: int = 0) -> None:
        """Deliver a message, or one that came twice or too late."""
        held = self.workers[worker]
        try:
            held.advance(queue, job)
        except Killed:
            self._bury(held)
            self.workers[worker] = Worker(self.settings)

    def settle(self) -> None:
        """Let time pass, without a fault, until nothing is left to do."""
        self.failures = []
        for _ in range(200):
            self.now += 700
            self.sweep()
            self.recover()
            self.work_off(0, 1)
            if all(s.state in ("done", "failed", "skipped", "cancelled") for s in Series.select()):
                return
        raise AssertionError([(s.state, s.reason) for s in Series.select()])

    # What may come between.

    def run(self, action: Callable[[], object], step: int, then: Callable[[], None] | None) -> bool:
        """Run `action`; at a step of it let something else happen, or, without `then`, kill it.

        Returns
        -------
        bool
            Whether it lived to its end.
        """
        self._steps_left, self._then = step, then or self._kill
        try:
            action()
        except Killed:
            return False
        finally:
            self._steps_left = None
        return True

    def step(self) -> None:
        """Here another process may act."""
        if self._steps_left is None or threading.get_ident() != self._thread:
            return  # the thread that renews leases has no part in it
        self._steps_left -= 1
        if self._steps_left < 0:
            self._steps_left = None
            self._then()

    @staticmethod
    def _kill() -> None:
        raise Killed

    def _bury(self, worker: Worker) -> None:
        """Give what a killed worker holds to a process that is gone, or to another machine's."""
        host = socket.gethostname() if self.deaths % 2 else "elsewhere"
        self.deaths += 1
        owner = f"{host}:{self._dead}:dead"
        Job.update(lease_owner=owner).where(Job.lease_owner == worker._owner).execute()

    def _watch_statements(self) -> None:
        engine = records.database.obj
        execute, begin = engine.execute_sql, engine.begin

        def watched(sql, params=None):
            if not engine.in_transaction():
                self.step()
            return execute(sql, params)

        def watched_begin(*arguments):
            self.step()
            return begin(*arguments)

        engine.execute_sql, engine.begin = watched, watched_begin

    def _asked(self, series: str) -> int | None:
        self.step()
        return self.pacs.expected.get(series)

    def _select(self, datasets, rules):
        self.step()
        self.before_selection()
        return self._selected(datasets, rules)

    _selected = staticmethod(assembly.select)

    # The stages, without the computing.

    def _stage(self, stage: Stage) -> Callable[[Workspace], None]:
        def work(workspace: Workspace) -> None:
            self.step()
            failure = self.failures.pop(0) if self.failures else ""
            if failure in FAILURES and (stage in (Stage.STORE, Stage.CONFIRM)) == (
                failure == "delivery"
            ):
                raise FAILURES[failure]
            for path in workspace.sources:
                assert path.is_file()
            getattr(self, f"_{stage.value}", lambda _: None)(workspace)
            self.step()

        return work

    def _convert(self, workspace: Workspace) -> None:
        uids = [str(dataset.SOPInstanceUID) for dataset in workspace.headers()]
        workspace.note("source", {"uids": uids})

    def _write(self, workspace: Workspace) -> None:
        uids = workspace.read("source")["uids"]
        workspace.note(
            "result",
            {
                "study_instance_uid": "2.25.1",
                "series_instance_uid": derive_uid(*uids),
                "instances": len(uids),
            },
        )

    def _store(self, workspace: Workspace) -> None:
        result = workspace.read("result")["series_instance_uid"]
        self.pacs.results[result] = frozenset(workspace.read("source")["uids"])
        self.made_of |= self.pacs.results

    def _confirm(self, workspace: Workspace) -> None:
        if workspace.read("result")["series_instance_uid"] not in self.pacs.results:
            raise DeliveryError("the PACS shows nothing")


@contextlib.contextmanager
def small_world(settings: Settings) -> Iterator[World]:
    world = World(settings)
    try:
        yield world
    finally:
        world.close()


def sources_of(series: Series) -> frozenset[str]:
    """Return the source instances that are on the spool."""
    return frozenset(instance.sop_instance_uid for instance in series.instances)
