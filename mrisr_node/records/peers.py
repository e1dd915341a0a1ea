"""Signs of life of our processes, and promises given and taken."""

from __future__ import annotations

import time

from peewee import CharField, FloatField, IntegerField, TextField

from mrisr_node.records.engine import Record

__all__ = ["Beat", "CommitmentReport", "CommitmentRequest"]


class Beat(Record):
    """The last sign of life of a long-running process (``beats``)."""

    process = CharField(unique=True)
    owner = CharField()
    at = FloatField()
    details = TextField(default="{}")
    """JSON: what else it says of itself."""


class CommitmentRequest(Record):
    """What the PACS was asked to keep (PS3.4 J), and its answer, which may come much later."""

    transaction_uid = CharField(unique=True)
    instances = TextField()
    """JSON: the SOP Instance UIDs."""
    asked_at = FloatField(default=time.time)
    answered_at = FloatField(null=True)
    failed = TextField(default="{}")
    """JSON: the SOP Instance UIDs that it does not keep, each with its reason."""


class CommitmentReport(Record):
    """What a peer asked us to keep, and the report that we owe it until it has it."""

    peer = CharField()
    transaction_uid = CharField()
    instances = TextField()
    """JSON: pairs of SOP Class and SOP Instance UID."""
    received_at = FloatField(default=time.time)
    failed = TextField(null=True)
    """JSON: what we do not have, each with its reason; null until it is worked out."""
    attempts = IntegerField(default=0)
    not_before = FloatField(default=0.0)
    ended_at = FloatField(null=True, index=True)
    """When the peer took the report, or we gave up."""
    end = CharField(default="")
    """How it ended, in words."""

    class Meta:  # noqa: D106
        indexes = ((("peer", "transaction_uid"), True),)
