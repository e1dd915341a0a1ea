"""Who may ask."""

from __future__ import annotations

import time

from peewee import CharField, FloatField, ForeignKeyField, IntegerField

from mrisr_node.records.engine import Record

__all__ = ["ApiSession", "ApiToken", "SignInFailures", "User", "WebSession"]


class User(Record):
    """Somebody or something that may come in; never deleted."""

    username = CharField(unique=True)
    password_hash = CharField()
    """Empty where none is taken: of a service."""
    role = CharField(default="admin")
    created_at = FloatField(default=time.time)
    disabled_at = FloatField(null=True)


class SignInFailures(Record):
    """How often a name was tried in vain since it last got in, a user's or nobody's."""

    name = CharField(unique=True)
    """A keyed digest of it."""
    failures = IntegerField(default=0)
    at = FloatField(default=time.time)
    locked_until = FloatField(default=0.0)


class WebSession(Record):
    """A signed-in browser; only the digest of its cookie is kept."""

    digest = CharField(unique=True)
    user = ForeignKeyField(User, on_delete="CASCADE")
    expires_at = FloatField()


class ApiSession(Record):
    """A program that somebody has signed in with; access tokens name it."""

    key = CharField(unique=True)
    """Random, and in each of its tokens; row numbers are given again."""
    user = ForeignKeyField(User, on_delete="CASCADE")
    refresh_digest = CharField()
    """Of the only refresh token that is not spent."""
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
