"""Group commit: what several threads want durable at the same time becomes durable together.

Syncing a folder and committing a row cost the same for one instance as for ten. A thread takes all
that waits while the batch before it is being synced; nobody waits for others to come.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Commits"]

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")

_LARGEST = 32


class Commits(Generic[_Item, _Outcome]):
    """Collects items and has them committed in batches, by one thread.

    Parameters
    ----------
    commit
        Makes a batch durable and returns an outcome for each item. If it fails for several, each is
        tried alone, so that one that cannot be committed does not fail the others.
    """

    def __init__(self, commit: Callable[[Sequence[_Item]], list[_Outcome]]) -> None:
        self._commit = commit
        self._waiting: queue.Queue[tuple[_Item, Future[_Outcome]]] = queue.Queue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, item: _Item) -> _Outcome:
        """Return the outcome of an item once it is durable; raise what its commit raised."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="commits", daemon=True)
                self._thread.start()
        future: Future[_Outcome] = Future()
        self._waiting.put((item, future))
        return future.result()

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < _LARGEST:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            self._settle(batch)

    def _settle(self, batch: list[tuple[_Item, Future[_Outcome]]]) -> None:
        try:
            outcomes = self._commit([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - goes to whoever waits
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for single in batch:
                self._settle([single])
            return
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            future.set_result(outcome)
