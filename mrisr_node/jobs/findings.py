"""What the node found out about a result that the PACS has: figures, times, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrisr_node.choices import ResultKind
from mrisr_node.jobs.history import left_out_of, result_series_of, seconds_of, stacks_of
from mrisr_node.jobs.result_files import stack_folders
from mrisr_node.records import Job, Series
from mrisr_node.settings import Settings

__all__ = ["Findings", "findings", "previews_of"]


@dataclass(frozen=True)
class Findings:
    """What is known of the newest result of a series, or of one stack of it, that the PACS has.

    Parameters
    ----------
    stacks
        The labels of all stacks of the series that were processed, in order.
    left_out
        In words, which are not and why.
    known
        What the stages noted: ``source``, ``brain``, ``superresolve`` and ``result``.
    seconds
        By stage.
    series, instances
        Series Instance UID by what it is, and how many instances it has.
    previews
        The folder of its pictures; it may be gone.
    """

    series_id: int
    study_instance_uid: str
    series_instance_uid: str
    description: str
    result_series_uid: str
    delivered_at: float
    stacks: tuple[str, ...]
    left_out: tuple[str, ...]
    known: Mapping[str, Any]
    seconds: Mapping[str, float]
    series: Mapping[str, str]
    instances: Mapping[str, int]
    previews: Path


def findings(settings: Settings, series_id: int, stack: int = 1) -> Findings | None:
    """Return what is known of the newest delivered result of a series; None where there is none.

    Parameters
    ----------
    stack
        Which of several stacks of the series, from 1.
    """
    job = (
        Job.select(Job, Series)
        .join(Series)
        .where(Series.id == series_id, Job.delivered_at.is_null(False))
        .order_by(Job.id.desc())
        .first()
    )
    if job is None:
        return None
    stacks = stacks_of(job)
    if not 1 <= stack <= len(stacks):
        return None
    known = stacks[stack - 1]
    written = known.get("result", {}).get("series", {})
    series = {kind: one["series_instance_uid"] for kind, one in written.items()}
    return Findings(
        series_id=series_id,
        study_instance_uid=job.series.study_instance_uid,
        series_instance_uid=job.series.series_instance_uid,
        description=job.series.description,
        result_series_uid=known.get("result", {}).get("series_instance_uid", job.result_series_uid),
        delivered_at=job.delivered_at,
        left_out=left_out_of(job),
        stacks=tuple(known.get("label", "") for known in stacks),
        known=known,
        seconds=seconds_of(job),
        # An older version wrote the thin slices alone.
        series=series or {ResultKind.IMAGE.value: job.result_series_uid},
        instances=result_series_of(job),
        previews=stack_folders(previews_of(settings, job.id), len(stacks))[stack - 1],
    )


def previews_of(settings: Settings, job_id: int) -> Path:
    """Return the folder of a job's pictures, which stay when the job's own folder goes."""
    return settings.previews_dir / str(job_id)
