"""Requests that create something, remembered: the same one again creates nothing more."""

from __future__ import annotations

import time

from peewee import BlobField, CharField, FloatField, IntegerField

from mrisr_node.records.engine import Record

__all__ = ["IdempotencyKey"]


class IdempotencyKey(Record):
    """A request that came with an ``Idempotency-Key``, and what was answered."""

    digest = CharField(unique=True)
    """Of who asked, what they may do, and their key."""
    request = CharField()
    """Digest of what was asked."""
    at = FloatField(default=time.time, index=True)
    status = IntegerField(null=True)
    """Null while the first request is under way, and where it ended without an answer."""
    headers = CharField(default="{}")
    """JSON."""
    body = BlobField(default=b"")
