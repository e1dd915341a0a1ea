"""How long a job still takes, learnt from how long this node's stages took before.

The seconds of a stage grow with some power of the number of voxels. That power, and how much the
seconds vary, are learnt from the last runs of each stage by Bayesian linear regression of their
logarithms, so that few runs, or runs of quite another size, give a wide spread by themselves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from peewee import fn
from scipy.special import stdtrit

from mrisr_node.choices import Recipe
from mrisr_node.jobs.stages import Stage, stages_of
from mrisr_node.jobs.turns import next_try
from mrisr_node.records import Job, StageRun

__all__ = ["COVERAGE", "Estimate", "Estimator"]

COVERAGE = 0.8
"""Part of the actual times that should lie between `Estimate.low` and `Estimate.high`."""

_HISTORY = 50
# What is taken for likely before there is any history: a stage's seconds grow a little less than
# its voxels do, and vary by a quarter; it counts as much as two runs.
_POWER, _POWER_SPREAD = 0.8, 0.4
_SPREAD, _PRIOR_RUNS = 0.25, 2
# A stage that takes longer than it should is nearly done, and never quite.
_NEARLY = 0.95


@dataclass(frozen=True)
class Estimate:
    """Time left, in seconds; all three are None where nobody knows.

    Some stage has never run here, or the job waits for its next try: what that brings, a PACS that
    is down does not tell.
    """

    seconds: float | None
    low: float | None
    high: float | None
    runs: int
    """How often the stage that ran least often, of those to come, has run here before."""


@dataclass(frozen=True)
class _Spell:
    """Seconds of one stage."""

    low: float
    middle: float
    high: float


class Estimator:
    """Estimates from the history as it is when it is first asked about a stage."""

    def __init__(self) -> None:
        self._history: dict[Stage, list[tuple[float, int]]] = {}

    def time_left(self, job: Job) -> Estimate:
        """Estimate the seconds until `job` is done, waiting for other jobs left out.

        The spreads of its stages are added, as if all of them were slow together: they are, on a
        machine that has other things to do.
        """
        stages = stages_of(Recipe(job.recipe))
        current = Stage(job.stage) if job.stage else stages[0]
        remaining = stages[stages.index(current) :]
        runs = min(len(self._runs(stage)) for stage in remaining)
        if not runs or next_try(job) is not None:
            return Estimate(None, None, None, runs)
        low = middle = high = 0.0
        for stage in remaining:
            spell = _predict(self._runs(stage), job.voxels)
            part = 1.0 - (_done(job, spell) if stage is current else 0.0)
            low += part * spell.low
            middle += part * spell.middle
            high += part * spell.high
        return Estimate(middle, low, high, runs)

    def _runs(self, stage: Stage) -> list[tuple[float, int]]:
        """Return seconds and voxels of the last runs of a stage."""
        if stage not in self._history:
            runs = (
                StageRun.select(StageRun.seconds, StageRun.voxels)
                .where(StageRun.stage == stage.value, StageRun.finished, StageRun.seconds > 0)
                .order_by(StageRun.id.desc())
                .limit(_HISTORY)
            )
            if stage is Stage.PAIRS:
                # It keeps what an earlier try has made: this one's seconds are those of the rest.
                earlier = StageRun.alias()
                before = earlier.select().where(
                    earlier.job == StageRun.job, earlier.id < StageRun.id
                )
                runs = runs.where(~fn.EXISTS(before))
            self._history[stage] = [(run.seconds or 0.0, run.voxels) for run in runs]
        return self._history[stage]


def _done(job: Job, spell: _Spell) -> float:
    """Return which part of the current stage is behind a job: as it says, or by the time spent."""
    # A PACS takes its time to promise, whether somebody looks for its answer now or not.
    at_it = job.lease_owner is not None or job.stage == Stage.COMMIT.value
    if job.progress or not at_it:
        return job.progress
    run = StageRun.select().where(StageRun.job == job).order_by(StageRun.id.desc()).first()
    if run is None or run.finished or run.stage != job.stage:
        return 0.0
    elapsed: float = max(0.0, time.time() - run.started_at)
    return min(elapsed / spell.middle, _NEARLY)


def _predict(runs: Sequence[tuple[float, int]], voxels: int) -> _Spell:
    """Predict the seconds of a stage for a volume (Gelman et al., Bayesian Data Analysis, 14)."""
    y = np.log([seconds for seconds, _ in runs])
    # Where a size is not known, it is taken for the same.
    sizes = [math.log(size / voxels) if size and voxels else 0.0 for _, size in runs]
    x = np.column_stack([np.ones_like(y), sizes])
    prior_mean = np.array([0.0, _POWER])
    prior = np.diag([0.0, (_SPREAD / _POWER_SPREAD) ** 2])
    precision = x.T @ x + prior
    mean = np.linalg.solve(precision, x.T @ y + prior @ prior_mean)
    freedom = _PRIOR_RUNS + len(y) - 1
    from_prior = mean - prior_mean
    residual = float(np.sum((y - x @ mean) ** 2) + from_prior @ prior @ from_prior)
    variance = (_PRIOR_RUNS * _SPREAD**2 + residual) / freedom
    scale = math.sqrt(variance * (1.0 + float(np.linalg.inv(precision)[0, 0])))
    width = float(stdtrit(freedom, (1 + COVERAGE) / 2)) * scale
    middle = float(mean[0])
    return _Spell(math.exp(middle - width), math.exp(middle), math.exp(middle + width))
