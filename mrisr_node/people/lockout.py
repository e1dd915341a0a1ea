"""Names that were tried with wrong passwords have to wait, longer each time.

Kept in the records, so that a restart forgives nobody. A name that nobody has waits like any
other, so waiting says nothing about who there is. The wait is short at first and never longer than
the setting says: whoever keeps trying another's name can be a nuisance, and no more.
"""

from __future__ import annotations

import hashlib
import hmac
import time

from mrisr_node.errors import NodeError
from mrisr_node.records import SignInFailures, transaction
from mrisr_node.settings import Settings

__all__ = ["TooManyFailures", "enter", "forgive", "locked_until"]

_FREE = 5
"""Failures in a row that cost nothing: people mistype."""
_FIRST_WAIT = 30.0
_MOST_DOUBLINGS = 16
_FORGOTTEN_AFTER = 86_400.0


class TooManyFailures(NodeError):
    """A name has to wait before it is tried again, for `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many attempts with this name; try again in {seconds} seconds")
        self.seconds = seconds


def enter(settings: Settings, username: str) -> None:
    """Count an attempt with a name, before it is made: many at once are no way around it.

    Raises
    ------
    TooManyFailures
        The name has to wait.
    """
    name = _digest(settings, username)
    with transaction():
        now = time.time()
        # Made-up names must not fill the disk.
        SignInFailures.delete().where(SignInFailures.at < now - _FORGOTTEN_AFTER).execute()
        row = SignInFailures.get_or_none(SignInFailures.name == name) or SignInFailures(name=name)
        if row.locked_until > now:
            raise TooManyFailures(max(1, round(row.locked_until - now)))
        row.failures, row.at = row.failures + 1, now
        if row.failures >= _FREE:
            doubled = _FIRST_WAIT * 2 ** min(row.failures - _FREE, _MOST_DOUBLINGS)
            row.locked_until = now + min(doubled, settings.lockout_minutes * 60)
        row.save()


def forgive(settings: Settings, username: str) -> None:
    """Forget the failures of a name: it got in, or an administrator says so."""
    SignInFailures.delete().where(SignInFailures.name == _digest(settings, username)).execute()


def locked_until(settings: Settings, username: str) -> float | None:
    """Return until when a name has to wait, seconds since 1970; None where it need not."""
    row = SignInFailures.get_or_none(SignInFailures.name == _digest(settings, username))
    return row.locked_until if row is not None and row.locked_until > time.time() else None


def _digest(settings: Settings, username: str) -> str:
    # Not the name: people type passwords into the wrong field.
    key = settings.secret("sign-in").encode()
    return hmac.new(key, username.encode(), hashlib.sha256).hexdigest()
