"""Group commit: what several threads want durable at the same time becomes durable together.

Syncing a folder and committing a row cost the same for one instance as for ten. Whoever comes while
a batch is being committed waits, and the first of those who waited then commits for all of them;
nobody waits for others to come.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Commits"]

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")

_LARGEST = 32


class Commits(Generic[_Item, _Outcome]):
    """Has items committed in batches, by the threads that bring them.

    Parameters
    ----------
    commit
        Makes a batch durable and returns an outcome for each item. If it fails for several, each is
        tried alone, so that one that cannot be committed does not fail the others.
    of_all
        Errors that each would meet alone as well, after waiting as long: none is tried again.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[_Item]], list[_Outcome]],
        of_all: tuple[type[Exception], ...] = (),
    ) -> None:
        self._commit = commit
        self._of_all = of_all
        self._waiting: deque[tuple[_Item, Future[_Outcome]]] = deque()
        self._committing = threading.Lock()

    def add(self, item: _Item) -> _Outcome:
        """Return the outcome of an item once it is durable; raise what its commit raised."""
        future: Future[_Outcome] = Future()
        self._waiting.append((item, future))
        with self._committing:
            # Perhaps it was part of the batch of whoever was here before.
            while not future.done():
                count = min(len(self._waiting), _LARGEST)
                self._settle([self._waiting.popleft() for _ in range(count)])
        return future.result()

    def _settle(self, batch: Sequence[tuple[_Item, Future[_Outcome]]]) -> None:
        try:
            outcomes = self._commit([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - goes to whoever waits
            if len(batch) == 1 or isinstance(error, self._of_all):
                for _, future in batch:
                    future.set_exception(error)
                return
            for single in batch:
                self._settle([single])
            return
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            raise
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            future.set_result(outcome)
