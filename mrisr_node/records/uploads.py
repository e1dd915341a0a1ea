"""What came through the browser or from a tool, file by file, and what was made of it as files."""

from __future__ import annotations

import time
from enum import StrEnum

from peewee import CharField, FloatField, ForeignKeyField, IntegerField, TextField

from mrisr_node.records.engine import Record
from mrisr_node.records.jobs import Job
from mrisr_node.records.series import Series

__all__ = ["Batch", "NiftiSeries", "PairsSeries", "StoredFile", "Upload", "UploadState"]


class UploadState(StrEnum):
    """Where an upload is on its way."""

    RECEIVING = "receiving"
    CHECKING = "checking"
    """All bytes are here; nobody has looked at them yet."""
    SENDING = "sending"
    """It waits for the PACS, or for what the node lacks, and is tried again."""
    DONE = "done"
    REFUSED = "refused"


class StoredFile(Record):
    """A file that can be downloaded; its bytes are in ``files_dir`` under its key."""

    key = CharField(unique=True)
    """128 bits that nobody can guess."""
    owner = CharField(index=True)
    """Name of the user."""
    name = CharField()
    size = IntegerField()
    sha256 = CharField()
    media_type = CharField()
    facts = TextField(default="{}")
    """JSON: of a NIfTI file, its shape and voxel size."""
    created_at = FloatField(default=time.time)
    job = ForeignKeyField(Job, backref="files", null=True, on_delete="CASCADE")
    """What made it; null: it was uploaded."""


class Upload(Record):
    """A file on its way in, by the tus protocol; its bytes are in ``uploads_dir`` under its key."""

    key = CharField(unique=True)
    owner = CharField(index=True)
    name = CharField()
    size = IntegerField()
    offset = IntegerField(default=0)
    """So many bytes are durable."""
    state = CharField(default=UploadState.RECEIVING.value, index=True)
    reason = TextField(default="")
    kind = CharField(default="")
    """``nifti``, ``dicom`` or ``zip``; empty until it was looked at."""
    file = ForeignKeyField(StoredFile, backref="uploads", null=True, on_delete="SET NULL")
    """What it became, where it was a NIfTI file."""
    series = TextField(default="[]")
    """JSON: UIDs of the series that its DICOM instances belong to."""
    attempts = IntegerField(default=0)
    not_before = FloatField(default=0.0)
    created_at = FloatField(default=time.time)
    touched_at = FloatField(default=time.time)
    """When its last bytes came, or its state changed."""


class Batch(Record):
    """Several files that were given to be processed together; its state is that of its series."""

    key = CharField(unique=True)
    owner = CharField(index=True)
    created_at = FloatField(default=time.time)


class NiftiSeries(Record):
    """What is known of a series that is a NIfTI file and not a set of DICOM instances."""

    series = ForeignKeyField(Series, backref="nifti", unique=True, on_delete="CASCADE")
    file = ForeignKeyField(StoredFile, null=True, on_delete="SET NULL")
    batch = ForeignKeyField(Batch, backref="children", null=True, on_delete="SET NULL")
    owner = CharField()
    slice_axis = IntegerField()
    thickness_mm = FloatField()
    contrast = CharField(null=True)
    study = TextField(null=True)
    """JSON: names and ids of the study that it becomes in the PACS; null: it becomes none."""


class PairsSeries(Record):
    """What is known of a series that is a set of scans to make pairs of."""

    series = ForeignKeyField(Series, backref="pairs", unique=True, on_delete="CASCADE")
    owner = CharField(index=True)
    files = TextField()
    """JSON: keys of the uploaded scans, in their order."""
    options = TextField()
    """JSON: what kind of pairs (``pairs.options``)."""
    licence = CharField(null=True)
    """Of the dataset, as its owner states it."""
