"""The runs of a job's stages, and how long each took: what the estimates learn from.

The promise of a PACS to keep a result is one run, however often its answer is looked for: nobody
works on it most of the time, and it takes that time all the same.
"""

from __future__ import annotations

import time

from mrisr_node.jobs.stages import Stage
from mrisr_node.records import Job, StageRun

__all__ = ["begin_run", "seconds_of_run"]


def begin_run(job: Job, stage: Stage) -> StageRun:
    """Return the run of a stage that begins now, or goes on."""
    if stage is Stage.COMMIT:
        runs = StageRun.select().where(StageRun.job == job)
        last: StageRun | None = runs.order_by(StageRun.id.desc()).first()
        if last is not None and last.stage == stage.value and not last.finished:
            return last
    run: StageRun = StageRun.create(
        job=job, stage=stage.value, started_at=time.time(), voxels=job.voxels
    )
    return run


def seconds_of_run(run: StageRun, tried: float) -> float:
    """Return how long a run has taken whose last try took so many seconds."""
    if run.stage == Stage.COMMIT.value:
        return max(tried, time.time() - run.started_at)
    return tried
