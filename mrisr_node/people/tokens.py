"""Personal tokens: what a tool shows for acting for a user."""

from __future__ import annotations

import time
from collections.abc import Iterable

from mrisr_node.errors import NodeError
from mrisr_node.people.digests import digest_of, new_secret
from mrisr_node.people.person import Means, Person
from mrisr_node.people.roles import Permission, Role, permissions_of
from mrisr_node.people.users import find_user
from mrisr_node.records import ApiToken, User, transaction

__all__ = [
    "TOKEN_PREFIX",
    "TokenError",
    "create_token",
    "holder_of_token",
    "revoke_token",
    "token_key",
    "tokens_of",
]

TOKEN_PREFIX = "mrisr_"  # noqa: S105 - lets secret scanners and people recognise a token

_LONGEST_NAME = 64
# Digits of the digest; enough to tell a user's tokens apart, and no help in making one.
_KEY = 16


class TokenError(NodeError):
    """A token cannot be made, or there is none."""


def create_token(
    username: str,
    name: str,
    days: float | None = None,
    scopes: Iterable[Permission] = (),
) -> str:
    """Make a bearer token for a tool that acts for `username`; it is shown only now.

    Parameters
    ----------
    username
        Who the tool acts for.
    name
        What it is for, in the user's words.
    days
        How long it is valid; without, until it is revoked.
    scopes
        What it is for; without any, whatever its user may do at the time.

    Raises
    ------
    NodeError
        There is no such user, or the token would be for what they may not do.
    """
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise TokenError(f"a token needs a name of at most {_LONGEST_NAME} characters")
    wanted = frozenset(scopes)
    token, now = TOKEN_PREFIX + new_secret(), time.time()
    with transaction():
        user = find_user(username)
        beyond = wanted - permissions_of(Role(user.role))
        if beyond:
            raise TokenError(
                f"{username} is {user.role} and lacks {', '.join(sorted(beyond))}: a token can have"
                " no permission that its user lacks"
            )
        if user.role == Role.SERVICE and not wanted:
            raise TokenError("choose what the token of a service may do (scopes)")
        ApiToken.create(
            digest=digest_of(token),
            user=user,
            name=name,
            created_at=now,
            expires_at=None if days is None else now + days * 86_400,
            scopes=" ".join(sorted(wanted)),
        )
    return token


def tokens_of(username: str) -> list[ApiToken]:
    """Return the tokens of a user, the newest first.

    Raises
    ------
    NodeError
        There is no such user.
    """
    rows = ApiToken.select().where(ApiToken.user == find_user(username))
    return list(rows.order_by(ApiToken.created_at.desc()))


def token_key(token: ApiToken) -> str:
    """Return what a token is called where it is listed and revoked.

    Not the number of its row: SQLite gives that to another one later.
    """
    return str(token.digest)[:_KEY]


def revoke_token(username: str, key: str) -> None:
    """End a token of a user, at once.

    Raises
    ------
    TokenError
        They have none of that key.
    """
    found = [token for token in tokens_of(username) if token_key(token) == key]
    if not found:
        raise TokenError("the user has no such token")
    for token in found:
        ApiToken.delete().where(ApiToken.digest == token.digest).execute()


def holder_of_token(value: str) -> Person | None:
    """Return whose token this is."""
    row = ApiToken.select(ApiToken, User).join(User).where(ApiToken.digest == digest_of(value))
    token = row.first()
    if token is None or (token.expires_at is not None and token.expires_at <= time.time()):
        return None
    return Person.of(token.user, Means.TOKEN, token=token.name, scopes=token.scopes.split())
