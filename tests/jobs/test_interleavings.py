"""Every legal interleaving of arriving, waiting, working, dying and trying again, by hypothesis.

A failing run prints its steps as a program; such a program is kept below as a test of its own.
"""

import contextlib
import hashlib
import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from small_dicom import encoded_slice, instance_uid
from small_world import SERIES, SLICES, World, sources_of

from mrisr_node.intake.spool import StoreOutcome
from mrisr_node.jobs.cancellation import CannotCancel, cancel
from mrisr_node.jobs.recovery import retry
from mrisr_node.jobs.stages import Queue
from mrisr_node.records import (
    ACTIVE,
    Instance,
    Job,
    Rejection,
    Series,
    StageRun,
    State,
    StateError,
    Transition,
)
from mrisr_node.records.states import NEXT as LEGAL
from mrisr_node.settings import load_settings

# Each example syncs hundreds of commits, which no disk has to see.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# A run of neighbouring slices, so that both whole stacks and gaps come about.
NUMBERS = st.builds(
    lambda first, count: [n for n in range(first, first + count) if n < SLICES],
    st.integers(0, SLICES - 1),
    st.integers(1, SLICES),
)
WHICH = st.integers(0, len(SERIES) - 1)
QUEUES = st.sampled_from(Queue)
FAILURES = st.lists(
    st.sampled_from(["", "", "", "series", "stage", "surprise", "delivery"]), max_size=7
)
# What other processes may do between two statements of one.
MEANWHILE = st.lists(
    st.sampled_from(["slice", "minute", "sweep", "recover", "work", "retry", "cancel"]),
    min_size=1,
    max_size=5,
)
STEP = st.integers(0, 12) | st.integers(0, 80)
FAULT = st.none() | st.tuples(STEP, st.none() | MEANWHILE)


class Interleavings(RuleBasedStateMachine):
    """Two series on their way through one node."""

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory(prefix="interleavings-", dir=MEMORY)
        folder = Path(self.folder.name)
        self.settings = load_settings(
            data_dir=folder, quiet_seconds=60.0, minimum_slices=3, delivery_attempts=4
        )
        self.world = World(self.settings)
        self.accepted: dict[str, bytes] = {}

    def teardown(self):
        if not hasattr(self, "world"):
            return
        try:
            self.settle()
        finally:
            self.world.close()
            self.folder.cleanup()

    # What may happen.

    @rule(
        series=WHICH,
        numbers=NUMBERS,
        sender=st.sampled_from(["ONE", "TWO"]),
        altered=st.sampled_from([False, False, False, True]),
        fault=FAULT,
    )
    def arrive(self, series, numbers, sender, altered, fault):
        """Slices come: new ones, the same again, others' bytes, from either of two senders."""

        def send():
            for number in numbers:
                self._receive(series, number, sender, altered)

        self._run(send, fault)

    @rule(series=WHICH, sender=st.sampled_from(["ONE", "TWO"]), fault=FAULT)
    def send_the_whole_series(self, series, sender, fault):
        def send():
            for number in range(SLICES):
                self._receive(series, number, sender, False)

        self._run(send, fault)

    @rule(series=WHICH, count=st.none() | st.integers(0, SLICES + 2))
    def the_pacs_counts(self, series, count):
        self.world.pacs.expected[SERIES[series]] = count

    @rule()
    def the_pacs_forgets(self):
        """It answered success and kept nothing, or lost it."""
        self.world.pacs.results.clear()

    @rule(seconds=st.sampled_from([0.5, 3, 61, 700, 3600, -3600]))
    def time_passes(self, seconds):
        self.world.now += seconds

    @rule(fault=FAULT)
    def sweep(self, fault):
        self._run(self.world.sweep, fault)

    @rule(fault=FAULT)
    def recover(self, fault):
        self._run(self.world.recover, fault)

    @rule(queue=QUEUES, worker=st.integers(0, 1), failures=FAILURES, fault=FAULT)
    def work(self, queue, worker, failures, fault):
        self.world.failures = list(failures)
        self._run(lambda: self.world.work(queue, worker), fault)
        self.world.failures = []

    @precondition(lambda self: Job.select().exists())
    @rule(queue=QUEUES, worker=st.integers(0, 1), data=st.data(), fault=FAULT)
    def a_message_comes_twice(self, queue, worker, data, fault):
        job = data.draw(st.integers(1, Job.select().count()))
        self._run(lambda: self.world.wake(queue, job, worker), fault)

    @rule(queue=QUEUES)
    def a_message_is_lost(self, queue):
        self.world.queues._hueys[queue].dequeue()

    @precondition(lambda self: self._stopped().exists())
    @rule(fault=FAULT)
    def try_again(self, fault):
        for series in self._stopped():
            self._run(lambda series=series: self._retry(series), fault)

    @precondition(lambda self: Job.select().exists())
    @rule(fault=FAULT)
    def cancel(self, fault):
        self._run(self._cancel, fault)

    @rule()
    def restart(self):
        self.world.restart()

    @rule()
    def settle(self):
        self.world.settle()
        for series in Series.select():
            self._ended(series)

    # What is always true.

    @invariant()
    def what_was_acknowledged_is_there(self):
        accepted = getattr(self, "accepted", None)
        if not accepted:
            return
        known = {i.sop_instance_uid: i for i in Instance.select()}
        for uid, encoded in accepted.items():
            assert (self.settings.spool_dir / known[uid].path).read_bytes() == encoded
            assert known[uid].sha256 == hashlib.sha256(encoded).hexdigest()

    @invariant()
    def every_series_went_a_legal_way(self):
        for series in self._all_series():
            state = State.RECEIVING
            for step in Transition.select().where(Transition.series == series).order_by("id"):
                assert step.source == state
                assert step.target in LEGAL[state]
                state = State(step.target)
            assert series.state == state
            if state in (State.FAILED, State.SKIPPED, State.CANCELLED):
                assert series.reason

    @invariant()
    def one_job_counts(self):
        for series in self._all_series():
            jobs = list(Job.select().where(Job.series == series).order_by(Job.id))
            state = State(series.state)
            if state in ACTIVE:
                assert jobs[-1].finished_at is None
            if state is State.DONE:
                assert jobs[-1].delivered_at is not None
                assert jobs[-1].finished_at is not None
            for job in jobs:
                # Nobody works between two rules: a lease is a killed worker's.
                assert job.lease_owner is None or job.lease_owner.endswith(":dead")
            times = [job.delivered_at for job in jobs if job.delivered_at is not None]
            assert times == sorted(times)
            made = [job.result_series_uid for job in jobs if job.result_series_uid is not None]
            assert len(made) == len(set(made))
            # No stage of a job begins once the series has a newer one.
            ids = [job.id for job in jobs]
            runs = StageRun.select().where(StageRun.job.in_(ids)).order_by(StageRun.id)
            order = [run.job_id for run in runs]
            assert order == sorted(order)

    def _all_series(self):
        return list(Series.select()) if hasattr(self, "world") else []

    def _ended(self, series):
        assert State(series.state) in (
            State.DONE, State.FAILED, State.SKIPPED, State.CANCELLED,
        )  # fmt: skip
        assert {i.sop_instance_uid for i in series.instances} >= {
            uid for uid in self.accepted if uid.startswith(f"{series.series_instance_uid}.")
        }
        if State(series.state) is State.DONE:
            job = Job.select().where(Job.series == series).order_by(Job.id.desc()).first()
            made_of = self.world.made_of[job.result_series_uid]
            assert made_of == sources_of(series)

    def _receive(self, series, number, sender, altered):
        encoded = encoded_slice(SERIES[series], number, altered=altered)
        uid = instance_uid(SERIES[series], number)
        before = self.accepted.get(uid)
        outcome = self.world.receive(series, number, sender, altered=altered)
        if outcome == StoreOutcome.DIFFERENT:
            assert self.accepted.get(uid) != encoded
            digest = hashlib.sha256(encoded).hexdigest()[:40]
            assert Rejection.select().where(Rejection.path == f"{digest}.dcm").exists()
            assert (self.settings.quarantine_dir / f"{digest}.dcm").read_bytes() == encoded
            return
        assert before is None or before == encoded
        self.accepted[uid] = encoded

    def _retry(self, series):
        try:
            retry(series.id)
        except StateError:
            assert Series.get_by_id(series.id).state not in ("failed", "cancelled")

    def _stopped(self):
        return Series.select().where(Series.state.in_(["failed", "cancelled"]))

    def _cancel(self):
        """Cancel the newest job; nothing of a cancelled one begins to be stored."""
        job = Job.select().order_by(Job.id.desc()).first()
        if job is None:
            return
        stored = StageRun.select().where(StageRun.stage == "store").count()
        with contextlib.suppress(CannotCancel):
            cancel(job.id, "somebody")
            assert StageRun.select().where(StageRun.stage == "store").count() == stored

    def _run(self, action, fault):
        if fault is None:
            action()
            return
        step, meanwhile = fault
        then = None if meanwhile is None else lambda: [self._meanwhile(word) for word in meanwhile]
        self.world.run(action, step, then)

    def _meanwhile(self, word):
        """Let another process act."""
        if word == "slice":
            for series in range(len(SERIES)):
                for number in range(SLICES):
                    if instance_uid(SERIES[series], number) not in self.accepted:
                        self._receive(series, number, "ONE", False)
                        return
        elif word == "minute":
            self.world.now += 61
        elif word == "sweep":
            self.world.sweep()
        elif word == "recover":
            self.world.recover()
        elif word == "work":
            self.world.work_off(1)
        elif word == "retry":
            for series in self._stopped():
                self._retry(series)
        elif word == "cancel":
            self._cancel()


TestInterleavings = Interleavings.TestCase

# What was found.


@pytest.fixture
def machine():
    """A machine whose steps a test names itself; what always holds is checked at the end."""
    machine = Interleavings()
    machine.start()
    try:
        yield machine
        machine.settle()
        machine.what_was_acknowledged_is_there()
        machine.every_series_went_a_legal_way()
        machine.one_job_counts()
    finally:
        machine.world.close()
        machine.folder.cleanup()


def test_a_series_that_failed_after_a_late_slice_is_looked_at_again(machine):
    """Trying again went on with the job of before, and delivered a result without that slice."""
    machine.arrive(0, [0, 1, 2], "ONE", False, None)
    machine.settle()
    machine.arrive(0, [5], "ONE", False, None)
    machine.settle()
    assert "not evenly spaced" in Series.get().reason
    machine.try_again(None)
    machine.settle()
    assert Series.get().state == State.FAILED
    machine.arrive(0, [3, 4], "ONE", False, None)
    machine.settle()
    assert Series.get().state == State.DONE
    assert Job.select().count() == 2


def test_a_slice_that_arrives_while_the_gap_is_found_is_not_passed_over(machine):
    """Selection failed the series for the gap that had just been filled."""
    machine.arrive(0, [0, 1, 3], "ONE", False, None)
    machine.world.now += 61
    selecting = [lambda: machine.arrive(0, [2], "ONE", False, None)]

    def at_selection():
        if selecting:
            selecting.pop()()

    machine.world.before_selection = at_selection
    machine.sweep(None)
    assert Series.get().state == State.RECEIVING
    machine.settle()
    assert Series.get().state == State.DONE


def test_a_round_goes_on_while_other_processes_write(machine):
    """SQLite refused to write, at once, on a connection that was still reading the series."""
    machine.arrive(0, range(4), "ONE", False, None)
    machine.arrive(1, range(4), "ONE", False, None)
    machine.world.now += 61

    def another_process_writes():
        with contextlib.closing(sqlite3.connect(machine.settings.database_path)) as other:
            other.execute("UPDATE series SET description = 'written'")
            other.commit()

    machine.world.before_selection = another_process_writes
    machine.sweep(None)
    assert Job.select().count() == 2


@pytest.mark.parametrize("step", range(10, 26))
def test_a_slice_at_any_moment_of_a_delivery_leads_to_one_newer_result(machine, step):
    """At the end of it, the job of before was called done and kept its lease."""
    machine.arrive(0, range(5), "ONE", False, None)
    machine.world.now += 61
    machine.sweep(None)
    machine.work(Queue.CPU, 0, [], None)
    machine.work(Queue.GPU, 0, [], None)
    machine.work(Queue.DELIVERY, 0, [], (step, ["slice", "minute", "sweep", "work", "work"]))
    machine.one_job_counts()
    machine.arrive(0, [6], "ONE", False, None)
    machine.arrive(0, [5], "ONE", False, None)
    machine.settle()
    assert Series.get().state == State.DONE


@pytest.mark.parametrize("step", range(26))
def test_a_job_that_is_cancelled_at_any_moment_leaves_a_whole_result_or_none(machine, step):
    machine.arrive(0, range(5), "ONE", False, None)
    machine.world.now += 61
    machine.sweep(None)
    machine.work(Queue.CPU, 0, [], None)
    machine.work(Queue.GPU, 0, [], None)
    machine.work(Queue.DELIVERY, 0, [], (step, ["cancel"]))
    [series] = Series.select()
    assert series.state in (State.DONE, State.CANCELLED)
    assert bool(machine.world.pacs.results) == (series.state == State.DONE)
    assert Job.get().finished_at is not None
    assert Job.get().lease_owner is None
    if series.state == State.CANCELLED:
        assert series.reason == "cancelled by somebody"
        machine.try_again(None)
        machine.settle()
        assert Series.get().state == State.DONE
