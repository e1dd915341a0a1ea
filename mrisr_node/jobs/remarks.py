"""What a reader of a result has to know, and only the records tell."""

from __future__ import annotations

from mrisr_node.records import Instance, Job, Series

__all__ = ["remarks_on"]


def remarks_on(job: Job) -> tuple[str, ...]:
    """Return what a reader of the result has to know and its files do not tell."""
    series = Series.get_by_id(job.series_id)
    received = Instance.select().where(Instance.series == series).count()
    remarks = []
    if series.expected_instances is not None and received < series.expected_instances:
        remarks.append(
            f"Made from {received} of {series.expected_instances} instances that the PACS knows"
        )
    earlier = Job.select().where(
        Job.series == series, Job.id < job.id, Job.result_series_uid.is_null(False)
    )
    if before := earlier.order_by(Job.id.desc()).first():
        remarks.append(f"Takes the place of the earlier result {before.result_series_uid}")
    return tuple(remarks)
