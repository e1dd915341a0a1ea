"""How often a user and an address may ask."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.types import Scope

from mrisr_node.settings import Settings

__all__ = ["RateLimits", "client_address"]

_SIGN_INS = 50


def client_address(scope: Scope) -> str:
    """Return where a request comes from."""
    return str(scope["client"][0]) if scope.get("client") else ""


class RateLimits:
    """Counts requests by the minute; each check counts one and returns the seconds to wait, or 0.

    In memory: one process serves the front door.
    """

    def __init__(self, settings: Settings) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._of_user = RateLimitItemPerMinute(settings.requests_per_minute)
        self._of_address = RateLimitItemPerMinute(settings.requests_per_minute_per_address)
        self._of_sign_ins = RateLimitItemPerMinute(_SIGN_INS)

    def by_user(self, username: str) -> int:
        """Count a request of somebody who is known."""
        return self._count(self._of_user, "user", username)

    def by_address(self, scope: Scope) -> int:
        """Count a request, whoever makes it."""
        return self._count(self._of_address, "address", _network(scope))

    def by_sign_in(self, scope: Scope) -> int:
        """Count an attempt to sign in: each costs a hash, which is made to be slow."""
        return self._count(self._of_sign_ins, "sign-in", _network(scope))

    def _count(self, item: RateLimitItemPerMinute, *key: str) -> int:
        if self._limiter.hit(item, *key):
            return 0
        return max(1, round(self._limiter.get_window_stats(item, *key).reset_time - time.time()))


def _network(scope: Scope) -> str:
    """Return what one peer can choose its address from: of IPv6 it has 64 bits."""
    address = client_address(scope)
    try:
        six = ip_address(address).version == 6
    except ValueError:
        return address
    return str(ip_network(f"{address.partition('%')[0]}/64", strict=False)) if six else address
