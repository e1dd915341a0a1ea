"""What is attacked, and what an attack is, below the data set."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.survival.object_cases import honest
from tests.survival.peer import Peer, encoded

__all__ = [
    "AT_ONCE",
    "PATIENCE",
    "PDU_DEADLINE",
    "REQUEST_DEADLINE",
    "NetworkCase",
    "Target",
    "all_closed",
    "within",
]

AT_ONCE = 5.0
"""Seconds; all of the deadlines below are longer, or as long."""
REQUEST_DEADLINE = 5.0
PDU_DEADLINE = 10.0
# How much later than its deadline something may come: a bound, and no measurement.
PATIENCE = 3


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Parameters
    ----------
    path
        An honest file.
    kept
        Returns how many files the receiver has kept, those in quarantine included.
    """

    port: int
    path: Path
    maximum_associations: int
    kept: Callable[[], int]

    @property
    def instance(self) -> tuple[bytes, str]:
        """An honest data set and its SOP Instance UID, another one each time."""
        dataset = honest(str(self.path))
        return encoded(dataset), str(dataset.SOPInstanceUID)


@dataclass(frozen=True)
class NetworkCase:
    """An attack, which returns in words what happened, and what the log has to say of it.

    Parameters
    ----------
    logged
        Is found in a line behind the attacker's address; None where there must be no line.
    """

    attack: Callable[[Target], str]
    logged: str | None

    @property
    def name(self) -> str:
        """The name for a test."""
        return self.attack.__name__


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where the body takes longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds, f"not within {seconds} s"


def all_closed(peers: list[Peer]) -> bool:
    """Wait for the receiver to close them all, and close our side."""
    closed = [peer.closed() for peer in peers]
    for peer in peers:
        peer.socket.close()
    return all(closed)
