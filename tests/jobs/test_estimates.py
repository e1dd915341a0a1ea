"""Time left, from histories that tests make up and know the truth of."""

import random
import time

import pytest

from mrisr_node import records
from mrisr_node.choices import Recipe
from mrisr_node.jobs.estimates import COVERAGE, Estimator
from mrisr_node.jobs.overview import find
from mrisr_node.jobs.runs import begin_run, seconds_of_run
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import Job, Series, StageRun, State, open_records


@pytest.fixture
def job(make_settings):
    open_records(make_settings().database_path)
    series = Series.create(series_instance_uid="1.2.3", study_instance_uid="1.2")
    series.move(State.COMPLETE)
    series.move(State.QUEUED)
    return Job.create(series=series, recipe="native", voxels=1000)


def ran(job, seconds, voxels, stages=Stage):
    for stage in stages:
        StageRun.create(job=job, stage=stage.value, started_at=0, seconds=seconds, voxels=voxels,
                        finished=True)  # fmt: skip


def left(job):
    return Estimator().time_left(job)


def test_what_never_ran_here_is_unknown(job):
    assert (left(job).seconds, left(job).runs) == (None, 0)
    ran(job, 10, 1000, [stage for stage in Stage if stage is not Stage.WRITE])
    StageRun.create(job=job, stage="write", started_at=0, voxels=1000)  # it died in it
    assert left(job).seconds is None
    # What lies behind a job need not be known.
    job.stage = Stage.STORE.value
    assert left(job).seconds == pytest.approx(30)
    assert find(job.series_id).time_left.seconds is None


def test_a_single_run_gives_a_wide_spread_and_another_size_a_wider_one(job):
    ran(job, 10, 1000)
    same = left(job)
    assert same.seconds == pytest.approx(80)  # eight stages of the native recipe
    assert same.low < 80 / 1.6
    assert same.high > 80 * 1.6
    job.voxels = 8000
    other = left(job)
    assert 80 * 8**0.6 < other.seconds < 80 * 8
    assert other.high / other.low > 2 * same.high / same.low
    job.voxels = 0  # unknown
    assert left(job).seconds == pytest.approx(80)


def test_many_runs_tell_how_seconds_grow_with_size(job):
    chance = random.Random(3)
    for _ in range(40):
        voxels = int(1000 * 8 ** chance.random())
        ran(job, 2 + voxels / 200, voxels)
    job.voxels = 4000
    now = left(job)
    assert now.seconds == pytest.approx(8 * 22, rel=0.1)
    assert now.high / now.low < 1.4


@pytest.mark.parametrize("runs", [1, 2, 5, 20])
def test_the_spread_holds_what_it_says(job, runs):
    """One stage left, seconds that vary by a third: as many are inside as are said to be."""
    chance = random.Random(7)
    job.stage = Stage.COMMIT.value
    inside = 0
    with records.transaction():  # no disk has to see it
        for _ in range(200):
            StageRun.delete().execute()
            for _ in range(runs):
                ran(job, 60 * chance.lognormvariate(0, 0.33), 1000, [Stage.COMMIT])
            now = left(job)
            inside += now.low <= 60 * chance.lognormvariate(0, 0.33) <= now.high
    assert inside / 200 == pytest.approx(COVERAGE, abs=0.12)


def test_the_part_that_is_done_counts(job):
    ran(job, 10, 1000)
    job.stage, job.progress = Stage.COMMIT.value, 0.75
    assert left(job).seconds == pytest.approx(2.5)
    # A stage that does not tell how far it is is as far as its time.
    job.progress, job.lease_owner = 0.0, "somebody"
    run = StageRun.create(job=job, stage="commit", started_at=time.time() - 5, voxels=1000)
    assert left(job).seconds == pytest.approx(5, abs=1)
    StageRun.update(started_at=0).where(StageRun.id == run.id).execute()
    assert left(job).seconds == pytest.approx(0.5)


def test_of_a_job_that_is_put_off_nobody_knows(job, monkeypatch):
    """A PACS that is down: no time shorter than the wait is ever told."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    ran(job, 1, 1000)
    Job.update(stage=Stage.STORE.value, not_before=now + 3600).execute()
    row = find(job.series_id)
    assert (row.next_try_at, row.waiting_for) == (now + 3600, None)
    assert (row.time_left.seconds, row.time_left.low, row.time_left.high) == (None, None, None)
    assert row.time_left.runs == 1
    now += 3600
    row = find(job.series_id)
    assert (row.next_try_at, row.waiting_for) == (None, "delivery")
    assert row.time_left.seconds == pytest.approx(3)


def test_a_promise_takes_as_long_as_the_pacs_takes(job, monkeypatch):
    """Not as long as the last of several looks for it."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    ran(job, 100, 1000)
    Job.update(stage=Stage.COMMIT.value).execute()
    run = begin_run(job, Stage.COMMIT)
    now += 60
    # It looks again, then waits for its turn to look again.
    Job.update(lease_owner="somebody").execute()
    assert begin_run(job, Stage.COMMIT) == run
    assert left(Job.get()).seconds == pytest.approx(40)
    Job.update(lease_owner=None).execute()
    assert left(Job.get()).seconds == pytest.approx(40)
    now += 60
    run = begin_run(job, Stage.COMMIT)
    assert seconds_of_run(run, 0.1) == pytest.approx(120)
    # What was not kept is stored, and asked for, anew.
    begin_run(job, Stage.STORE)
    assert begin_run(job, Stage.COMMIT) != run


def test_the_rest_of_a_set_of_pairs_is_no_history_of_a_whole_one(job):
    job.recipe = Recipe.PAIRS.value
    StageRun.create(job=job, stage="pairs", started_at=0, voxels=1000)  # its worker died
    ran(job, 5, 1000, [Stage.PAIRS])
    assert (left(job).seconds, left(job).runs) == (None, 0)
    other = Job.create(series=job.series, recipe=job.recipe, voxels=1000)
    ran(other, 60, 1000, [Stage.PAIRS])
    assert (left(job).seconds, left(job).runs) == (pytest.approx(60), 1)
