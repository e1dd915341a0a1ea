"""Who may use the node: passwords, browser sessions, and tokens for tools.

Of a password an argon2id hash is kept; of session cookies and tokens only SHA-256 digests, so that
whoever reads the database can sign in as nobody. (A digest without salt is enough for a random
value of 256 bits.)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mrisr_node.errors import NodeError
from mrisr_node.people.roles import Permission, Role, permissions_of
from mrisr_node.records import ApiToken, User, WebSession, open_records, transaction
from mrisr_node.settings import Settings

__all__ = [
    "TOKEN_PREFIX",
    "Person",
    "create_token",
    "ensure_admin",
    "of_session",
    "of_token",
    "set_password",
    "sign_in",
    "sign_out",
]

ADMIN = "admin"
TOKEN_PREFIX = "mrisr_"  # noqa: S105 - lets secret scanners and people recognise a token

_hasher = PasswordHasher()
# A hash costs 64 MiB by design: a flood of sign-ins must not take the machine's memory.
_hashing = threading.BoundedSemaphore(2)
# Verified when there is no such user, so that the answer takes as long.
_nobody = _hasher.hash(secrets.token_urlsafe(16))


@dataclass(frozen=True)
class Person:
    """Whoever a request was made by or for."""

    username: str
    role: Role
    permissions: frozenset[Permission]
    """What they may do; of a token, what it is for."""
    by_cookie: bool
    """Signed in by a browser that sends its cookie by itself, whoever made the request."""


def ensure_admin(settings: Settings) -> str | None:
    """Make the first user at the first start; return the password, which is kept nowhere."""
    open_records(settings.database_path)
    password = secrets.token_urlsafe(12)
    digest = _hash(password)
    with transaction():
        if User.select().exists():
            return None
        User.create(username=ADMIN, password_hash=digest, role="admin")
    return password


def set_password(username: str, password: str | None = None) -> str:
    """Give a user a new password, generated if none is given, and end their sessions.

    Raises
    ------
    NodeError
        There is no such user.
    """
    password = password or secrets.token_urlsafe(12)
    digest = _hash(password)
    with transaction():
        user = _user(username)
        User.update(password_hash=digest).where(User.username == username).execute()
        WebSession.delete().where(WebSession.user == user).execute()
    return password


def create_token(username: str, name: str, days: float | None = None) -> str:
    """Make a bearer token for a tool that acts for `username`; it is shown only now.

    Raises
    ------
    NodeError
        There is no such user.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    expires = None if days is None else time.time() + days * 86_400
    ApiToken.create(digest=_digest(token), user=_user(username), name=name, expires_at=expires)
    return token


def sign_in(settings: Settings, username: str, password: str) -> str | None:
    """Return the cookie value of a new session, or None when name or password is wrong."""
    user = User.get_or_none(User.username == username)
    if not _verify(user.password_hash if user else _nobody, password) or user is None:
        return None
    value = secrets.token_urlsafe(32)
    now = time.time()
    with transaction():
        WebSession.delete().where(WebSession.expires_at < now).execute()
        WebSession.create(
            digest=_digest(value), user=user, expires_at=now + settings.session_hours * 3600
        )
    return value


def sign_out(value: str) -> None:
    """End the session of a cookie."""
    WebSession.delete().where(WebSession.digest == _digest(value)).execute()


def of_session(value: str) -> Person | None:
    """Return whose cookie this is."""
    return _holder(WebSession, value, by_cookie=True)


def of_token(value: str) -> Person | None:
    """Return whose bearer token this is."""
    return _holder(ApiToken, value, by_cookie=False)


def _holder(
    kind: type[WebSession] | type[ApiToken], value: str, *, by_cookie: bool
) -> Person | None:
    digest = _digest(value)
    row = kind.select(kind, User).join(User).where(kind.digest == digest).first()
    if row is None or not hmac.compare_digest(row.digest, digest):
        return None
    if row.expires_at is not None and row.expires_at <= time.time():
        return None
    role = Role(row.user.role)
    permissions = permissions_of(role)
    if isinstance(row, ApiToken) and row.scopes:
        permissions &= {Permission(scope) for scope in row.scopes.split()}
    return Person(row.user.username, role, permissions, by_cookie)


def _user(username: str) -> User:
    user = User.get_or_none(User.username == username)
    if user is None:
        raise NodeError(f"there is no user {username}")
    return user


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def _hash(password: str) -> str:
    with _hashing:
        return _hasher.hash(password)


def _verify(password_hash: str, password: str) -> bool:
    with _hashing:
        try:
            return _hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False
