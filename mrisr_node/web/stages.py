"""How far a series is, in words and figures of the API."""

from __future__ import annotations

from pydantic import BaseModel, Field

from mrisr_node.choices import Recipe
from mrisr_node.jobs.estimates import Estimate
from mrisr_node.jobs.stages import Stage, stages_of

__all__ = ["STAGE_NAMES", "TimeLeft", "overall", "stage_name", "time_left"]

STAGE_NAMES = {
    Stage.CONVERT: "Reading the slices",
    Stage.BRAIN: "Finding the brain",
    Stage.BIAS: "Correcting the bias field",
    Stage.NORMALISE: "Normalising intensities",
    Stage.REGISTER: "Registering to MNI space",
    Stage.SUPERRESOLVE: "Super-resolving",
    Stage.WRITE: "Writing DICOM",
    Stage.STORE: "Sending to the PACS",
    Stage.CONFIRM: "Checking in the PACS",
    Stage.COMMIT: "Waiting for the PACS to promise to keep it",
    Stage.PAIRS: "Making pairs",
}


class TimeLeft(BaseModel):
    """Seconds until the job is done, once it is its turn; null where nobody knows.

    So it is while some stage to come has never run here, and while the job waits for its next try.
    """

    seconds: float | None
    low: float | None = Field(description="eight of ten jobs should take between this and `high`")
    high: float | None
    runs: int = Field(
        description="how often this node has run the stage, of those to come, that it ran least"
        " often; 0: the time is not known yet"
    )


def time_left(estimate: Estimate | None) -> TimeLeft | None:
    """Return an estimate as the API gives it."""
    if estimate is None:
        return None
    return TimeLeft(
        seconds=estimate.seconds, low=estimate.low, high=estimate.high, runs=estimate.runs
    )


def stage_name(stage: str | None) -> str | None:
    """Return a stage in words."""
    return STAGE_NAMES[Stage(stage)] if stage else None


def overall(recipe: str | None, stage: str | None, progress: float) -> float:
    """Return the part of the way through all stages, 0 to 1."""
    if not recipe or not stage:
        return 0.0
    stages = stages_of(Recipe(recipe))
    return (stages.index(Stage(stage)) + progress) / len(stages)
