"""Browser sessions: a cookie that says nothing, and a row that says whose it is."""

from __future__ import annotations

import time

from mrisr_node.people.digests import digest_of, new_secret
from mrisr_node.people.person import Means, Person
from mrisr_node.people.sign_in import Refused
from mrisr_node.records import User, WebSession, transaction
from mrisr_node.settings import Settings

__all__ = ["begin_session", "end_session", "holder_of_cookie", "require_unchanged"]


def begin_session(settings: Settings, user: User) -> str:
    """Return the cookie value of a new session of a user who has just been recognised.

    Raises
    ------
    Refused
        They were disabled, or their password was changed, in this very moment.
    """
    value, now = new_secret(), time.time()
    with transaction():
        require_unchanged(user)
        WebSession.delete().where(WebSession.expires_at < now).execute()
        WebSession.create(
            digest=digest_of(value), user=user, expires_at=now + settings.session_hours * 3600
        )
    return value


def end_session(value: str) -> None:
    """End the session of a cookie."""
    WebSession.delete().where(WebSession.digest == digest_of(value)).execute()


def holder_of_cookie(value: str) -> Person | None:
    """Return whose cookie this is."""
    row = (
        WebSession.select(WebSession, User)
        .join(User)
        .where(WebSession.digest == digest_of(value), WebSession.expires_at > time.time())
        .first()
    )
    return None if row is None else Person.of(row.user, Means.COOKIE)


def require_unchanged(user: User) -> None:
    """Refuse a user who was changed since they were recognised; inside a transaction.

    Raises
    ------
    Refused
        They were disabled, or have another password.
    """
    same = User.select().where(
        User.username == user.username,
        User.password_hash == user.password_hash,
        User.disabled_at.is_null(),
    )
    if not same.exists():
        raise Refused
