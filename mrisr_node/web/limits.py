"""How often a thing may be tried."""

from __future__ import annotations

import threading
import time

__all__ = ["Limiter", "TooManyAttempts"]


class TooManyAttempts(Exception):
    """A thing was tried too often; `seconds` until it may be tried again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many attempts; wait {seconds} s")
        self.seconds = seconds


class Limiter:
    """Allows `most` failed attempts per key in `window` seconds."""

    def __init__(self, most: int = 5, window: float = 60.0, keys: int = 10_000) -> None:
        self._most, self._window, self._keys = most, window, keys
        self._attempts: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def enter(self, key: str) -> None:
        """Count an attempt, before it is made.

        Raises
        ------
        TooManyAttempts
            The key has used up its attempts.
        """
        now = time.monotonic()
        with self._lock:
            recent = [at for at in self._attempts.get(key, []) if at > now - self._window]
            if len(recent) >= self._most:
                raise TooManyAttempts(max(1, round(recent[0] + self._window - now)))
            # Made-up names must not fill the memory: the oldest key gives way.
            if key not in self._attempts and len(self._attempts) >= self._keys:
                del self._attempts[next(iter(self._attempts))]
            self._attempts.pop(key, None)
            self._attempts[key] = [*recent, now]

    def forgive(self, key: str) -> None:
        """Forget the attempts of a key that got in."""
        with self._lock:
            self._attempts.pop(key, None)
