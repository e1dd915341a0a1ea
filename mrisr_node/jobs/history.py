"""What of a result only the records tell: what its reader has to know, and what came before it."""

from __future__ import annotations

import json
from typing import Any

from mrisr_node.choices import ResultKind
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import Instance, Job, ResultSeries, Series, StageRun
from mrisr_node.results.facts import Predecessor
from mrisr_node.results.origin import only_instance_of

__all__ = ["note_result_series", "predecessor_of", "remarks_on", "result_series_of", "seconds_of"]


def remarks_on(job: Job) -> tuple[str, ...]:
    """Return what a reader of the result has to know and its files do not tell."""
    series = Series.get_by_id(job.series_id)
    received = Instance.select().where(Instance.series == series).count()
    remarks = []
    if series.expected_instances is not None and received < series.expected_instances:
        remarks.append(
            f"Made from {received} of {series.expected_instances} instances that the PACS knows"
        )
    return tuple(remarks)


def predecessor_of(job: Job) -> Predecessor | None:
    """Return the earlier result of the same series, which this job's takes the place of."""
    # What was never begun to be stored, nobody has ever seen.
    stored = StageRun.select(StageRun.job).where(StageRun.stage == Stage.STORE.value)
    earlier = Job.select().where(
        Job.series == job.series_id,
        Job.id < job.id,
        Job.id.in_(stored),
        Job.result_series_uid.is_null(False),
    )
    before = earlier.order_by(Job.id.desc()).first()
    if before is None:
        return None
    report = _written(before).get(ResultKind.REPORT.value, {}).get("series_instance_uid")
    return Predecessor(
        before.result_series_uid, report, str(only_instance_of(report)) if report else None
    )


def seconds_of(job: Job) -> dict[str, float]:
    """Return how long each stage that a job has finished took, by its last run."""
    runs = StageRun.select().where(StageRun.job == job, StageRun.finished)
    return {run.stage: run.seconds or 0.0 for run in runs.order_by(StageRun.id)}


def result_series_of(job: Job) -> dict[str, int]:
    """Return how many instances each series of a job's written result has, by its UID."""
    if job.result_series_uid is None:
        return {}
    written = _written(job).values()
    series = {one["series_instance_uid"]: int(one["instances"]) for one in written}
    # An older version wrote one series and noted no more of it.
    return series or {job.result_series_uid: job.result_instances or 0}


def _written(job: Job) -> dict[str, dict[str, Any]]:
    noted: dict[str, dict[str, Any]] = json.loads(job.outcome).get("result", {}).get("series", {})
    return noted


def note_result_series(job: Job) -> None:
    """Write down which series a job has written, so that none is taken for an acquired one."""
    for uid in result_series_of(job):
        ResultSeries.insert(job=job, series_instance_uid=uid).on_conflict_ignore().execute()
