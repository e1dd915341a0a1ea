"""Where a series may be, and which ways lead from there."""

from __future__ import annotations

from enum import StrEnum

from mrisr_node.errors import NodeError

__all__ = ["ACTIVE", "NEXT", "State", "StateError"]


class State(StrEnum):
    """Where a series is on its way."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    SKIPPED = "skipped"
    QUEUED = "queued"
    PREPARING = "preparing"
    RESOLVING = "resolving"
    DELIVERING = "delivering"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = (State.QUEUED, State.PREPARING, State.RESOLVING, State.DELIVERING)

_STOPPED = State.FAILED, State.CANCELLED

# A late slice re-opens a series from wherever it is. From there no way leads but completeness:
# what was found out about the slices before the late one says nothing any more. A job that is
# tried again goes on where it failed, so a queued series may go to any of the working states. A
# cancelled series is one that somebody wanted failed: the same ways lead from it. Of pairs, all is
# preparing.
NEXT: dict[State, frozenset[State]] = {
    State.RECEIVING: frozenset({State.COMPLETE}),
    State.COMPLETE: frozenset({State.SKIPPED, State.QUEUED, State.FAILED, State.RECEIVING}),
    State.SKIPPED: frozenset({State.RECEIVING}),
    State.QUEUED: frozenset(
        {State.PREPARING, State.RESOLVING, State.DELIVERING, *_STOPPED, State.RECEIVING}
    ),
    State.PREPARING: frozenset({State.RESOLVING, State.DONE, *_STOPPED, State.RECEIVING}),
    State.RESOLVING: frozenset({State.DELIVERING, *_STOPPED, State.RECEIVING}),
    State.DELIVERING: frozenset({State.DONE, *_STOPPED, State.RECEIVING}),
    State.DONE: frozenset({State.RECEIVING}),
    State.FAILED: frozenset({State.QUEUED, State.RECEIVING}),
    State.CANCELLED: frozenset({State.QUEUED, State.RECEIVING}),
}


class StateError(NodeError):
    """A series was asked to go where no way leads from its state."""
