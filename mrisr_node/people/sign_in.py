"""Whether a name and a password are right."""

from __future__ import annotations

from mrisr_node.errors import NodeError
from mrisr_node.people import lockout
from mrisr_node.people.passwords import hashed, is_outdated, is_right
from mrisr_node.people.users import set_password
from mrisr_node.records import User
from mrisr_node.settings import Settings

__all__ = ["Refused", "change_password", "recognise"]


class Refused(NodeError):
    """Name or password is wrong, or the user is disabled; which of them is told to nobody."""

    def __init__(self) -> None:
        super().__init__("the name or the password is wrong")


def recognise(settings: Settings, username: str, password: str) -> User:
    """Return the user who has this name and this password.

    Raises
    ------
    Refused
        There is none.
    TooManyFailures
        The name was tried too often with wrong passwords.
    """
    lockout.enter(settings, username)
    user = User.get_or_none(User.username == username)
    if not is_right(user.password_hash if user else "", password) or user is None:
        raise Refused
    if user.disabled_at is not None:
        raise Refused
    lockout.forgive(settings, username)
    if is_outdated(user.password_hash):
        _hash_anew(user, password)
    return user


def change_password(settings: Settings, username: str, current: str, new: str) -> None:
    """Give a person the password that they choose, and end their sessions.

    Raises
    ------
    Refused
        The current password is wrong.
    TooManyFailures
        It was tried too often.
    UnfitPassword
        The new one is too easily guessed.
    """
    recognise(settings, username, current)
    set_password(username, new)


def _hash_anew(user: User, password: str) -> None:
    fresh = hashed(password)
    # Unless it was changed meanwhile.
    changed = (
        User.update(password_hash=fresh)
        .where(User.username == user.username, User.password_hash == user.password_hash)
        .execute()
    )
    if changed:
        user.password_hash = fresh
