"""The stages a job passes, in order, and the queue that each runs on.

Only names and order live here, so that the queues, the estimates and the pages can speak of stages
without loading what the stages do (``pipeline``).
"""

from __future__ import annotations

from enum import StrEnum

from mrisr_node.choices import Recipe
from mrisr_node.records import State

__all__ = [
    "LEASE_SECONDS",
    "SENDING",
    "Queue",
    "Stage",
    "following",
    "queue_of",
    "stages_of",
    "state_of",
    "worker_name",
]


LEASE_SECONDS = 60.0
"""For how long a worker holds a job without a sign of life."""


class Queue(StrEnum):
    """A Huey queue with its own consumer."""

    CPU = "cpu"
    GPU = "gpu"
    DELIVERY = "delivery"
    PAIRS = "pairs"
    """Of its own: no series of a patient waits for data to train on."""


class Stage(StrEnum):
    """One repeatable step from files to files."""

    CONVERT = "convert"
    BRAIN = "brain"
    BIAS = "bias"
    NORMALISE = "normalise"
    REGISTER = "register"
    SUPERRESOLVE = "superresolve"
    WRITE = "write"
    STORE = "store"
    CONFIRM = "confirm"
    COMMIT = "commit"
    PAIRS = "pairs"
    """All of the recipe of pairs: its scans are worked on side by side."""


_QUEUES = {
    Stage.SUPERRESOLVE: Queue.GPU,
    Stage.WRITE: Queue.DELIVERY,
    Stage.STORE: Queue.DELIVERY,
    Stage.CONFIRM: Queue.DELIVERY,
    Stage.COMMIT: Queue.DELIVERY,
    Stage.PAIRS: Queue.PAIRS,
}
_STATES = {
    Queue.CPU: State.PREPARING,
    Queue.GPU: State.RESOLVING,
    Queue.DELIVERY: State.DELIVERING,
    Queue.PAIRS: State.PREPARING,
}
SENDING = frozenset({Stage.STORE, Stage.CONFIRM, Stage.COMMIT})
"""Stages that need nothing but the written result; whichever fails, it is stored again."""

# Reading keeps the scanner's intensities, so the native recipe neither corrects nor registers.
_MNI_ONLY = frozenset({Stage.BIAS, Stage.REGISTER})


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages of a recipe, in order."""
    if recipe is Recipe.PAIRS:
        return (Stage.PAIRS,)
    others = (stage for stage in Stage if stage is not Stage.PAIRS)
    return tuple(s for s in others if recipe is Recipe.MNI or s not in _MNI_ONLY)


def queue_of(stage: Stage) -> Queue:
    """Return the queue that a stage runs on."""
    return _QUEUES.get(stage, Queue.CPU)


def state_of(stage: Stage) -> State:
    """Return the state that a series is in while a stage runs."""
    return _STATES[queue_of(stage)]


def worker_name(queue: Queue) -> str:
    """Return what the worker of a queue is called in log, monitoring and supervision."""
    return f"{queue.value}-worker"


def following(recipe: Recipe, stage: Stage) -> Stage | None:
    """Return the stage after `stage`, or None after the last."""
    stages = stages_of(recipe)
    position = stages.index(stage) + 1
    return stages[position] if position < len(stages) else None
