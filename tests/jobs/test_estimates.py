"""Time left, from histories that tests make up and know the truth of."""

import random
import time

import pytest

from mrisr_node import records
from mrisr_node.jobs.estimates import COVERAGE, Estimator
from mrisr_node.jobs.overview import find
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
