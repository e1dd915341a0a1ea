"""How long to wait before what failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["LONGEST_DELAY", "Jitter", "is_due", "jitter", "retry_delay"]

LONGEST_DELAY = 3600.0
# 2 ** 32 times any first delay is beyond the longest one, and no overflow.
_MOST_DOUBLINGS = 32

Jitter = Callable[[], float]
"""Gives a number from 0 up to 1; a test gives its own."""

jitter: Jitter = random.random


def retry_delay(tries: int, first: float, jitter: Jitter = jitter) -> float:
    """Return the seconds to wait after so many vain tries.

    It doubles with each try up to `LONGEST_DELAY`, less up to half of it by chance, so that what
    failed together is not tried together.
    """
    longest: float = min(first * 2 ** min(tries - 1, _MOST_DOUBLINGS), LONGEST_DELAY)
    return longest * (1 - jitter() / 2)


def is_due(moment: float, now: float) -> bool:
    """Tell whether a moment that something was put off to has come.

    One that is further away than the longest delay was set by a clock that was ahead: it has come.
    """
    return not now < moment <= now + LONGEST_DELAY
