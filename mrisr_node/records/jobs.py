"""What is done with a series, and what came of it."""

from __future__ import annotations

import time

from peewee import BooleanField, CharField, FloatField, ForeignKeyField, IntegerField, TextField

from mrisr_node.records.engine import Record
from mrisr_node.records.series import Series

__all__ = ["Job", "ResultSeries", "StageRun"]


class Job(Record):
    """The processing of one complete series; the newest of a series counts."""

    series = ForeignKeyField(Series, backref="jobs", on_delete="CASCADE")
    series_id: int  # peewee's own accessor of the foreign key's value
    recipe = CharField()
    stage = CharField(default="")
    progress = FloatField(default=0.0)
    attempts = IntegerField(default=0)
    not_before = FloatField(default=0.0)
    lease_owner = CharField(null=True)
    lease_until = FloatField(default=0.0)
    voxels = IntegerField(default=0)
    created_at = FloatField(default=time.time)
    started_at = FloatField(null=True)
    finished_at = FloatField(null=True)
    result_series_uid = CharField(null=True)
    result_instances = IntegerField(null=True)
    delivered_at = FloatField(null=True)
    """When the PACS showed the whole result."""
    committed_at = FloatField(null=True)
    """When the PACS promised to keep the whole result (Storage Commitment)."""
    deleted_at = FloatField(null=True)
    """When somebody deleted it; its row is what is left of it."""
    outcome = TextField(default="{}")
    """JSON: fidelity figures, checkpoint identity, what was sent where."""


class StageRun(Record):
    """One run of one stage of a job: what the estimates learn from."""

    job = ForeignKeyField(Job, backref="runs", on_delete="CASCADE")
    job_id: int
    stage = CharField(index=True)
    started_at = FloatField()
    seconds = FloatField(null=True)
    voxels = IntegerField(default=0)
    peak_bytes = IntegerField(null=True)
    finished = BooleanField(default=False)


class ResultSeries(Record):
    """A series that a job wrote: never taken for one that was acquired."""

    job = ForeignKeyField(Job, backref="series_written", on_delete="CASCADE")
    series_instance_uid = CharField(unique=True)
