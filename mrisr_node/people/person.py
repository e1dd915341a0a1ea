"""Whoever a request is made by or for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mrisr_node.people.roles import Permission, Role, permissions_of
from mrisr_node.records import User

__all__ = ["Means", "Person"]


class Means(StrEnum):
    """What somebody shows for being who they are."""

    COOKIE = "cookie"
    """Of a browser, which sends it by itself, whoever made the request."""
    ACCESS_TOKEN = "access token"  # noqa: S105 - no secret
    TOKEN = "token"  # noqa: S105
    """A personal one, which has a name."""


@dataclass(frozen=True)
class Person:
    """Whoever a request is made by or for, and what they may do."""

    username: str
    role: Role
    permissions: frozenset[Permission]
    """What they may do; of a token, what it is for."""
    means: Means
    token: str = ""
    """The name of the token, where they came with one."""
    session: str = ""
    """What their session is found by, where they have one."""

    @classmethod
    def of(
        cls,
        user: User,
        means: Means,
        *,
        token: str = "",
        session: str = "",
        scopes: Iterable[str] = (),
    ) -> Person | None:
        """Return the person that a user is at this moment; None where they may not sign in.

        `scopes` are what their token is for; without any, it is for whatever they may do.
        """
        if user.disabled_at is not None:
            return None
        role = Role(user.role)
        permissions = permissions_of(role)
        if named := frozenset(Permission(scope) for scope in scopes):
            permissions &= named
        return cls(user.username, role, permissions, means, token, session)

    @property
    def by_cookie(self) -> bool:
        """Whether a browser sent the request, which may be the work of another site."""
        return self.means is Means.COOKIE

    @property
    def signed_in(self) -> bool:
        """Whether a password began this, and not a token that somebody left with a tool."""
        return self.means is not Means.TOKEN
