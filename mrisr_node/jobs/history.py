"""What of a result only the records tell: what its reader has to know, and what came before it."""

from __future__ import annotations

import json
from typing import Any

from mrisr_node.choices import ResultKind
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import Instance, Job, ResultSeries, Series, StageRun
from mrisr_node.results.facts import Predecessor
from mrisr_node.results.origin import only_instance_of

__all__ = [
    "left_out_of",
    "note_result_series",
    "predecessors_of",
    "remarks_on",
    "result_series_of",
    "seconds_of",
    "stacks_of",
]


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


def left_out_of(job: Job) -> tuple[str, ...]:
    """Return which stacks of a job's series are not processed, each with the reason."""
    return tuple(json.loads(job.outcome).get("left_out", ()))


def stacks_of(job: Job) -> list[dict[str, Any]]:
    """Return what is known of the result of each stack of a job's series; of one, as a rule."""
    known: dict[str, Any] = json.loads(job.outcome)
    several: list[dict[str, Any]] | None = known.get("stacks")
    return several or [known]


def predecessors_of(job: Job) -> dict[str, Predecessor]:
    """Return the results of the job before, by the instance that each was known by.

    A result of this job takes the place of the one whose instance is among its sources. Older
    versions noted none, and had one result of a series.
    """
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
        return {}
    found = {}
    for known in stacks_of(before):
        result = known.get("result", {})
        report = _series(result).get(ResultKind.REPORT.value, {}).get("series_instance_uid")
        found[known.get("instance", "")] = Predecessor(
            # An older version noted less of it.
            result.get("series_instance_uid", before.result_series_uid),
            report,
            str(only_instance_of(report)) if report else None,
        )
    return found


def seconds_of(job: Job) -> dict[str, float]:
    """Return how long each stage that a job has finished took, by its last run."""
    runs = StageRun.select().where(StageRun.job == job, StageRun.finished)
    return {run.stage: run.seconds or 0.0 for run in runs.order_by(StageRun.id)}


def result_series_of(job: Job) -> dict[str, int]:
    """Return how many instances each series of a job's written result has, by its UID."""
    if job.result_series_uid is None:
        return {}
    series = {
        one["series_instance_uid"]: int(one["instances"])
        for known in stacks_of(job)
        for one in _series(known.get("result", {})).values()
    }
    # An older version wrote one series and noted no more of it.
    return series or {job.result_series_uid: job.result_instances or 0}


def _series(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    noted: dict[str, dict[str, Any]] = result.get("series", {})
    return noted


def note_result_series(job: Job) -> None:
    """Write down which series a job has written, so that none is taken for an acquired one."""
    for uid in result_series_of(job):
        ResultSeries.insert(job=job, series_instance_uid=uid).on_conflict_ignore().execute()
