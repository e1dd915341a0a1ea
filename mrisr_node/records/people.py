"""Who may ask."""

from __future__ import annotations

import time

from peewee import CharField, FloatField, ForeignKeyField

from mrisr_node.records.engine import Record

__all__ = ["ApiToken", "User", "WebSession"]


class User(Record):
    """A person who may sign in."""

    username = CharField(unique=True)
    password_hash = CharField()
    role = CharField(default="admin")
    created_at = FloatField(default=time.time)


class WebSession(Record):
    """A signed-in browser; only the digest of its cookie is kept."""

    digest = CharField(unique=True)
    user = ForeignKeyField(User, on_delete="CASCADE")
    expires_at = FloatField()


class ApiToken(Record):
    """A tool's bearer token; only its digest is kept."""

    digest = CharField(unique=True)
    user = ForeignKeyField(User, on_delete="CASCADE")
    name = CharField()
    created_at = FloatField(default=time.time)
    expires_at = FloatField(null=True)
    scopes = CharField(default="")
    """What it is for, with spaces between; empty: whatever its user may do."""
