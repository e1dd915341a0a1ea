"""Secrets that the node gives out, and what it keeps of them.

A SHA-256 digest without salt is enough for a random value of 256 bits: whoever reads the database
can sign in as nobody.
"""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["digest_of", "new_secret"]


def new_secret() -> str:
    """Return a random value of 256 bits."""
    return secrets.token_urlsafe(32)


def digest_of(value: str) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(value.encode()).hexdigest()
