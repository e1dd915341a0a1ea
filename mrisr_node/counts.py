"""Numbers of things, in words for people."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, thing: str) -> str:
    """Return a number with its noun: ``1 image``, ``2 images``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
