"""The clock jumps by an hour, either way: nothing is lost, waits for the hour, or is done twice."""

import time

import pytest
from small_world import SLICES, small_world, sources_of

from mrisr_node.beats import signs, write_beat
from mrisr_node.jobs import recovery
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.reconcile import Reconciler
from mrisr_node.jobs.recovery import recover
from mrisr_node.jobs.stages import LEASE_SECONDS
from mrisr_node.records import Beat, Failure, Job, Series, State, open_records

JUMPS = pytest.mark.parametrize("jump", [3600, -3600], ids=["ahead", "back"])


@pytest.fixture
def settings(make_settings):
    made = make_settings(minimum_free_bytes=0, minimum_slices=4, quiet_seconds=60.0)
    open_records(made.database_path)
    return made


def _live(world, seconds):
    """Let the node work for so many seconds of its clock."""
    for _ in range(seconds // 5):
        world.now += 5
        world.sweep()
        world.recover()
        world.work_off(0, 1)


@JUMPS
@pytest.mark.parametrize("moment", ["arriving", "arrived", "working"])
def test_a_series_goes_its_way_in_minutes(settings, jump, moment):
    with small_world(settings) as world:
        for number in range(SLICES):
            if moment == "arriving" and number == SLICES // 2:
                world.now += jump
                world.sweep()
            world.receive(0, number, "ONE")
        if moment == "working":
            world.now += 61
            world.sweep()
            # A stage's worker dies, and with it whoever would renew its lease.
            world.run(lambda: world.work_off(0), 12, None)
        if moment != "arriving":
            world.now += jump
        _live(world, 300)
        [series] = Series.select()
        assert (series.state, series.reason) == (State.DONE, "the result is in the PACS")
        assert list(world.pacs.results.values()) == [sources_of(series)]
        assert Job.select().count() == 1


def test_slices_that_come_after_a_jump_ahead_make_a_newer_result(settings):
    """Silence seemed over; the late ones re-open the series as any late slice does."""
    with small_world(settings) as world:
        for number in range(SLICES - 2):
            world.receive(0, number, "ONE")
        world.now += 3600
        _live(world, 5)
        for number in range(SLICES - 2, SLICES):
            world.receive(0, number, "ONE")
        _live(world, 300)
        [series] = Series.select()
        newest = Job.select().order_by(Job.id.desc()).first()
        assert series.state == State.DONE
        assert world.made_of[newest.result_series_uid] == sources_of(series)
        assert len(sources_of(series)) == SLICES


@JUMPS
def test_a_worker_elsewhere_keeps_its_job_as_long_as_it_lives(settings, jump, monkeypatch):
    series = Series.create(series_instance_uid="1.2.3", study_instance_uid="1.2")
    series.move(State.COMPLETE)
    series.move(State.QUEUED)
    now, queues, seen = time.time(), Queues(settings), {}
    Job.create(
        series=series, recipe="native", lease_owner="elsewhere:1:x", lease_until=now + LEASE_SECONDS
    )
    monkeypatch.setattr(time, "time", lambda: now)
    assert recover(queues, seen) == 0
    now += jump
    assert [recover(queues, seen) for _ in range(2)] == [0, 0]
    # It renews its lease by the clock as that is now.
    Job.update(lease_until=now + LEASE_SECONDS).execute()
    assert [recover(queues, seen) for _ in range(5)] == [0] * 5
    # It died, and so did the clock's battery.
    now -= jump
    Job.update(lease_until=now + jump).execute()
    assert [recover(queues, seen) for _ in range(3)] == [0, 0, 1]
    assert Job.get().attempts == 1
    assert Job.get().lease_owner is None
    assert Failure.select().count() == 1


def test_a_lease_that_is_renewed_while_it_is_looked_at_is_no_death(settings, monkeypatch):
    series = Series.create(series_instance_uid="1.2.3", study_instance_uid="1.2")
    series.move(State.COMPLETE)
    series.move(State.QUEUED)
    Job.create(series=series, recipe="native", lease_owner="elsewhere:1:x", lease_until=1.0)

    def renewed(_owner):
        Job.update(lease_until=time.time() + LEASE_SECONDS).execute()
        return False

    monkeypatch.setattr(recovery, "_dead", renewed)
    assert recover(Queues(settings)) == 0
    assert (Job.get().lease_owner, Job.get().attempts) == ("elsewhere:1:x", 0)
    assert Failure.select().count() == 0


def test_the_pacs_is_asked_again(settings, monkeypatch):
    now, asked = time.time(), []
    found = {
        "ID": "one", "IsStable": True, "Instances": ["a"], "ParentStudy": "s",
        "LastUpdate": time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)),
        "MainDicomTags": {"SeriesInstanceUID": "1.3"},
    }  # fmt: skip
    tags = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR", "ImageType": ""}

    class Answer:
        def raise_for_status(self):
            asked.append(now)

    reconciler = Reconciler(settings, lambda: now)
    monkeypatch.setattr(
        reconciler, "_get", lambda path, params=None: [found] if path == "/series" else tags
    )
    monkeypatch.setattr(reconciler._http, "request", lambda *_, **__: Answer())
    assert [reconciler.sweep() for _ in range(2)] == [1, 0]
    now -= 3600
    assert [reconciler.sweep() for _ in range(2)] == [1, 0]
    reconciler.close()


@JUMPS
def test_a_sign_of_life_of_another_time_is_none(settings, jump):
    write_beat("rounds", "here")
    assert signs()[0].fresh
    Beat.update(at=Beat.at + jump).execute()
    assert not signs()[0].fresh
