"""What the node found out about a result that the PACS has: figures, times, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrisr_node.jobs.history import seconds_of
from mrisr_node.records import Job, Series
from mrisr_node.settings import Settings

__all__ = ["Findings", "findings", "previews_of"]


@dataclass(frozen=True)
class Findings:
    """What is known of the newest result of a series that the PACS has.

    Parameters
    ----------
    known
        What the stages noted: ``source``, ``brain``, ``superresolve`` and ``result``.
    seconds
        By stage.
    previews
        The folder of its pictures; it may be gone.
    """

    series_id: int
    study_instance_uid: str
    series_instance_uid: str
    description: str
    result_series_uid: str
    delivered_at: float
    known: Mapping[str, Any]
    seconds: Mapping[str, float]
    previews: Path


def findings(settings: Settings, series_id: int) -> Findings | None:
    """Return what is known of the newest delivered result of a series; None where there is none."""
    job = (
        Job.select(Job, Series)
        .join(Series)
        .where(Series.id == series_id, Job.delivered_at.is_null(False))
        .order_by(Job.id.desc())
        .first()
    )
    if job is None:
        return None
    return Findings(
        series_id=series_id,
        study_instance_uid=job.series.study_instance_uid,
        series_instance_uid=job.series.series_instance_uid,
        description=job.series.description,
        result_series_uid=job.result_series_uid,
        delivered_at=job.delivered_at,
        known=json.loads(job.outcome),
        seconds=seconds_of(job),
        previews=previews_of(settings, job.id),
    )


def previews_of(settings: Settings, job_id: int) -> Path:
    """Return the folder of a job's pictures, which stay when the job's own folder goes."""
    return settings.previews_dir / str(job_id)
