"""Access tokens (JWT, RFC 9068) for a short while, and refresh tokens that give new ones.

An access token names a session, and the session's row has the last word: what was revoked,
disabled or changed counts at the next request, however long the token has to live.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from hmac import compare_digest

import jwt

from mrisr_node.people.digests import digest_of, new_secret
from mrisr_node.people.person import Means, Person
from mrisr_node.people.sessions import require_unchanged
from mrisr_node.people.sign_in import Refused
from mrisr_node.records import ApiSession, User, transaction
from mrisr_node.settings import Settings

__all__ = [
    "Grant",
    "begin_api_session",
    "end_api_session",
    "holder_of_access_token",
    "refresh_api_session",
]

_ALGORITHM = "HS256"
_ISSUER = _AUDIENCE = "mrisr_node"
_TYPE = "at+jwt"
_CLAIMS = ["iss", "aud", "sub", "sid", "iat", "exp"]
_REFRESH_PREFIX = "mrisr_refresh_"


@dataclass(frozen=True)
class Grant:
    """What somebody who has signed in gets."""

    access_token: str
    refresh_token: str
    seconds: int
    """Until the access token expires."""
    username: str


def begin_api_session(settings: Settings, user: User) -> Grant:
    """Begin a session of a user who has just been recognised.

    Raises
    ------
    Refused
        They were disabled, or their password was changed, in this very moment.
    """
    key, secret, now = secrets.token_hex(16), new_secret(), time.time()
    with transaction():
        require_unchanged(user)
        ApiSession.delete().where(ApiSession.expires_at < now).execute()
        ApiSession.create(
            key=key,
            user=user,
            refresh_digest=digest_of(secret),
            expires_at=now + settings.refresh_days * 86_400,
        )
    return _grant(settings, user.username, key, secret)


def refresh_api_session(settings: Settings, refresh_token: str) -> Grant:
    """Return new tokens for the newest refresh token of a session.

    One that was used before has been copied by somebody, or its answer was lost: nobody knows, so
    the whole session ends.

    Raises
    ------
    Refused
        The token is spent, expired or none.
    """
    key, _, secret = refresh_token.removeprefix(_REFRESH_PREFIX).partition("_")
    fresh = new_secret()
    with transaction():
        row = _session(key)
        # Not raised in here: that would undo the end of the session.
        known = row is not None and row.user.disabled_at is None
        spent = row is not None and not compare_digest(row.refresh_digest, digest_of(secret))
        if spent:
            ApiSession.delete().where(ApiSession.key == key).execute()
        elif known:
            ApiSession.update(refresh_digest=digest_of(fresh)).where(
                ApiSession.key == key
            ).execute()
    if row is None or spent or not known:
        raise Refused
    return _grant(settings, row.user.username, key, fresh)


def end_api_session(key: str) -> None:
    """End a session, its access tokens included."""
    ApiSession.delete().where(ApiSession.key == key).execute()


def holder_of_access_token(settings: Settings, value: str) -> Person | None:
    """Return whose access token this is."""
    try:
        token = jwt.decode_complete(
            value,
            _key(settings),
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            audience=_AUDIENCE,
            options={"require": _CLAIMS, "strict_aud": True},
        )
    except jwt.InvalidTokenError:
        return None
    claims = token["payload"]
    row = _session(str(claims["sid"]))
    if token["header"].get("typ") != _TYPE or row is None or row.user.username != claims["sub"]:
        return None
    return Person.of(row.user, Means.ACCESS_TOKEN, session=row.key)


def _grant(settings: Settings, username: str, key: str, secret: str) -> Grant:
    now = int(time.time())
    seconds = round(settings.access_token_minutes * 60)
    claims = {
        "iss": _ISSUER,
        "aud": _AUDIENCE,
        "sub": username,
        "sid": key,
        "iat": now,
        "exp": now + seconds,
    }
    token = jwt.encode(claims, _key(settings), _ALGORITHM, headers={"typ": _TYPE})
    return Grant(token, f"{_REFRESH_PREFIX}{key}_{secret}", seconds, username)


def _session(key: str) -> ApiSession | None:
    found: ApiSession | None = (
        ApiSession.select(ApiSession, User)
        .join(User)
        .where(ApiSession.key == key, ApiSession.expires_at > time.time())
        .first()
    )
    return found


def _key(settings: Settings) -> str:
    return settings.secret("access-tokens")
