"""Users: made, listed, enabled and disabled, given roles and passwords; never deleted.

A name that the audit trail knows must go on meaning the same person.
"""

from __future__ import annotations

import re
import time

from peewee import fn

from mrisr_node.errors import NodeError
from mrisr_node.people.passwords import hashed, new_password, require_fit
from mrisr_node.people.roles import Role
from mrisr_node.records import ApiSession, User, WebSession, open_records, transaction
from mrisr_node.settings import Settings

__all__ = [
    "ADMIN",
    "LastAdmin",
    "NoSuchUser",
    "UserError",
    "add_user",
    "all_users",
    "disable_user",
    "enable_user",
    "ensure_admin",
    "find_user",
    "set_password",
    "set_role",
]

ADMIN = "admin"

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"


class UserError(NodeError):
    """A user cannot be made or changed like this."""


class NoSuchUser(UserError):
    """There is no user of that name."""


class NameTaken(UserError):
    """There is a user of that name already."""


class LastAdmin(UserError):
    """Without this user nobody could look after the node."""


def ensure_admin(settings: Settings) -> str | None:
    """Make the first user at the first start; return the password, which is kept nowhere."""
    open_records(settings.database_path)
    password = new_password()
    digest = hashed(password)
    with transaction():
        if User.select().exists():
            return None
        User.create(username=ADMIN, password_hash=digest, role=Role.ADMIN.value)
    return password


def find_user(username: str) -> User:
    """Return a user.

    Raises
    ------
    NoSuchUser
        There is none of that name.
    """
    user = User.get_or_none(User.username == username)
    if user is None:
        raise NoSuchUser("there is no user of that name")
    return user


def all_users() -> list[User]:
    """Return all users, by name."""
    return list(User.select().order_by(User.username))


def add_user(username: str, role: Role, password: str | None = None) -> str:
    """Make a user; return the password, generated if none is given, and empty of a service.

    Raises
    ------
    NameTaken
        There is a user of that name already.
    UserError
        It is no name that a user can have, or a service was given a password.
    UnfitPassword
        The password is too easily guessed.
    """
    if not re.fullmatch(NAME_PATTERN, username):
        raise UserError(
            "a user name has up to 64 letters, digits, dots, dashes, underscores and @,"
            " and begins with a letter or a digit"
        )
    if role is Role.SERVICE:
        if password is not None:
            raise UserError("a service has no password; make a token for it")
        password, digest = "", ""
    else:
        password, digest = _fit(username, password)
    with transaction():
        # Two names that people take for one would be one to whoever reads the audit trail.
        if User.select().where(fn.LOWER(User.username) == username.lower()).exists():
            raise NameTaken("there is a user of that name already")
        User.create(username=username, password_hash=digest, role=role.value)
    return password


def set_password(username: str, password: str | None = None) -> str:
    """Give a user a new password, generated if none is given, and end their sessions.

    Raises
    ------
    UserError
        There is no such user, or it is a service.
    UnfitPassword
        The password is too easily guessed.
    """
    password, digest = _fit(username, password)
    with transaction():
        user = find_user(username)
        if user.role == Role.SERVICE:
            raise UserError("a service has no password; make a token for it")
        User.update(password_hash=digest).where(User.username == username).execute()
        _end_sessions(user)
    return password


def set_role(username: str, role: Role) -> None:
    """Give a user another role, which counts from their next request on.

    Raises
    ------
    UserError
        There is no such user, it is the last administrator, or a service is made of a person or
        a person of a service.
    """
    with transaction():
        user = find_user(username)
        if (user.role == Role.SERVICE) != (role is Role.SERVICE):
            raise UserError("a person cannot become a service, nor a service a person; add a user")
        if role is not Role.ADMIN:
            _require_another_admin(user)
        User.update(role=role.value).where(User.username == username).execute()


def disable_user(username: str) -> None:
    """Let a user in no more, from now on: not by password, session or token.

    Raises
    ------
    UserError
        There is no such user, or it is the last administrator.
    """
    with transaction():
        user = find_user(username)
        _require_another_admin(user)
        if user.disabled_at is None:
            User.update(disabled_at=time.time()).where(User.username == username).execute()
        _end_sessions(user)


def enable_user(username: str) -> None:
    """Let a user in again, with the password and the tokens that they had.

    Raises
    ------
    NoSuchUser
        There is none of that name.
    """
    with transaction():
        find_user(username)
        User.update(disabled_at=None).where(User.username == username).execute()


def _fit(username: str, password: str | None) -> tuple[str, str]:
    if password is None:
        password = new_password()
    else:
        require_fit(username, password)
    return password, hashed(password)


def _require_another_admin(user: User) -> None:
    others = User.select().where(
        User.role == Role.ADMIN.value,
        User.disabled_at.is_null(),
        User.username != user.username,
    )
    if user.role == Role.ADMIN and user.disabled_at is None and not others.exists():
        raise LastAdmin(
            f"{user.username} is the only administrator that is enabled; make another one first"
        )


def _end_sessions(user: User) -> None:
    for sessions in (WebSession, ApiSession):
        sessions.delete().where(sessions.user == user).execute()
