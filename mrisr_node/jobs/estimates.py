"""How long a job still takes, learnt from how long the stages took before."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from mrisr_node.choices import Recipe
from mrisr_node.jobs.stages import Stage, stages_of
from mrisr_node.records import Job, StageRun

__all__ = ["Estimate", "time_left"]

_HISTORY = 20

# Seconds for a sample head on two CPU cores, used until this machine has a history of its own.
# `mrisr-node demo` prints the same table of stages, so they can be measured again.
_REFERENCE: dict[Stage, float] = {
    Stage.CONVERT: 2.0,
    Stage.BRAIN: 40.0,
    Stage.BIAS: 60.0,
    Stage.NORMALISE: 1.0,
    Stage.REGISTER: 60.0,
    Stage.SUPERRESOLVE: 30.0,
    Stage.WRITE: 3.0,
    Stage.STORE: 3.0,
    Stage.CONFIRM: 1.0,
    Stage.COMMIT: 1.0,
}


@dataclass(frozen=True)
class Estimate:
    """Time left, in seconds, with its spread and where it comes from."""

    seconds: float
    low: float
    high: float
    basis: str
    """``history``: this node's own runs; ``reference``: figures of another machine."""


def time_left(job: Job) -> Estimate:
    """Estimate the seconds until `job` is done, waiting for other jobs left out."""
    recipe = Recipe(job.recipe)
    stages = stages_of(recipe)
    remaining = stages[stages.index(Stage(job.stage)) :] if job.stage else stages
    total = low = high = 0.0
    basis = "history"
    for position, stage in enumerate(remaining):
        part = 1.0 - job.progress if position == 0 else 1.0
        rates = _durations(stage, job.voxels)
        if rates:
            total += part * median(rates)
            low += part * min(rates)
            high += part * max(rates)
        else:
            basis = "reference"
            total += part * _REFERENCE[stage]
            low += part * _REFERENCE[stage] / 3
            high += part * _REFERENCE[stage] * 3
    return Estimate(total, low, high, basis)


def _durations(stage: Stage, voxels: int) -> list[float]:
    """Return past durations of a stage, scaled to this volume where both sizes are known."""
    runs = (
        StageRun.select(StageRun.seconds, StageRun.voxels)
        .where(StageRun.stage == stage.value, StageRun.finished, StageRun.seconds.is_null(False))
        .order_by(StageRun.id.desc())
        .limit(_HISTORY)
    )
    durations = []
    for run in runs:
        seconds = run.seconds or 0.0
        durations.append(seconds * voxels / run.voxels if voxels and run.voxels else seconds)
    return durations
