"""Passwords: how they are kept, compared and made."""

from __future__ import annotations

import secrets
import threading
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from zxcvbn import zxcvbn

from mrisr_node.errors import NodeError

__all__ = [
    "SHORTEST",
    "UnfitPassword",
    "hashed",
    "is_outdated",
    "is_right",
    "new_password",
    "require_fit",
]

SHORTEST = 12
"""Characters; length is what makes a password hard to guess, and no rule on its letters does."""

_LONGEST = 256
# zxcvbn's "safely unguessable": more than 10^8 guesses, at argon2's pace.
_UNGUESSABLE = 3
# Of more characters it says nothing: what it needs grows faster than they do.
_LOOKED_AT = 72

_hasher = PasswordHasher()
# A hash costs 64 MiB by design: a flood of sign-ins must not take the machine's memory.
_hashing = threading.BoundedSemaphore(2)
# Compared with when there is no such user, so that the answer takes as long.
_nobody = _hasher.hash(secrets.token_urlsafe(16))


class UnfitPassword(NodeError):
    """A new password is too easily guessed."""


def new_password() -> str:
    """Return a password that nobody guesses."""
    return secrets.token_urlsafe(12)


def require_fit(username: str, password: str) -> None:
    """Refuse a new password that is too short, says the user's name, or is easily guessed.

    Words and names that many people take, dates, sequences, repeats and ways across the keyboard
    are what is tried first (Wheeler, zxcvbn, USENIX Security 2016).

    Raises
    ------
    UnfitPassword
        It is.
    """
    if not SHORTEST <= len(password) <= _LONGEST:
        raise UnfitPassword(
            f"a password has {SHORTEST} to {_LONGEST} characters; a few words make a good one"
        )
    score = zxcvbn(password[:_LOOKED_AT], user_inputs=[username], max_length=_LOOKED_AT)["score"]
    if username.casefold() in password.casefold() or score < _UNGUESSABLE:
        raise UnfitPassword("this password is too easily guessed; a few words make a good one")


def hashed(password: str) -> str:
    """Return what is kept of a password (argon2id)."""
    with _hashing:
        return _hasher.hash(_typed(password))


def is_right(password_hash: str, password: str) -> bool:
    """Tell whether a password is the one that was kept; an empty hash is nobody's, and as slow."""
    with _hashing:
        try:
            return (
                _hasher.verify(password_hash or _nobody, _typed(password)) and password_hash != ""
            )
        except (VerificationError, InvalidHashError):
            return False


def is_outdated(password_hash: str) -> bool:
    """Tell whether a hash was made with other parameters than are used now."""
    return _hasher.check_needs_rehash(password_hash)


def _typed(password: str) -> str:
    """Return the same characters for the same password, whichever keyboard it was typed on."""
    return unicodedata.normalize("NFKC", password)[: 4 * _LONGEST]
