"""The Huey queues: CPU work, GPU work, delivery and pairs, each with its own consumer.

Huey delivers at most once: a message is gone before its task runs. So a message carries only a job
id and wakes somebody up; what is to be done stands in the records, and ``recovery`` sends the
message again when nobody works on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from huey import SqliteHuey
from huey.consumer import Consumer
from huey.exceptions import HueyException
from huey.registry import Message
from huey.serializer import Serializer

from mrisr_node.jobs.stages import Queue
from mrisr_node.settings import Settings

__all__ = ["Queues"]

# Huey's own defaults back off to ten seconds of waiting when idle.
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 0.2

Handler = Callable[[Queue, int], None]


class _JsonSerializer(Serializer):  # type: ignore[misc]
    """Messages as JSON: what lies in the queue's file is data, never code (Huey's is pickle)."""

    def _serialize(self, data: tuple[Any, ...]) -> bytes:
        return json.dumps(data).encode()

    def _deserialize(self, data: bytes) -> Message:
        return Message(*json.loads(data))


class Queues:
    """The queues of one node.

    Parameters
    ----------
    handler
        What a consumer does with a job id; not needed where messages are only sent.
    """

    def __init__(self, settings: Settings, handler: Handler | None = None) -> None:
        settings.queue_path.parent.mkdir(parents=True, exist_ok=True)
        self._hueys = {
            queue: SqliteHuey(
                name=queue.value,
                filename=str(settings.queue_path),
                serializer=_JsonSerializer(),
                results=False,
                timeout=30,
            )
            for queue in Queue
        }
        self._tasks = {queue: self._task(queue, handler) for queue in Queue}

    def _task(self, queue: Queue, handler: Handler | None) -> Callable[[int], object]:
        def advance(job_id: int) -> None:
            if handler is not None:
                handler(queue, job_id)

        task: Callable[[int], object] = self._hueys[queue].task(name="advance")(advance)
        return task

    def send(self, queue: Queue, job_id: int) -> None:
        """Wake up the consumer of a queue for a job."""
        self._tasks[queue](job_id)

    def waiting(self, queue: Queue) -> set[int]:
        """Return the ids of the jobs whose messages nobody has taken yet."""
        huey, found = self._hueys[queue], set()
        for message in huey.storage.enqueued_items():
            # The consumer drops what is no message, with a line in its log.
            with suppress(HueyException, LookupError, TypeError, ValueError):
                found.add(int(huey.deserialize_task(message).args[0]))
        return found

    def consume(self, queue: Queue) -> None:
        """Work on one queue until SIGTERM or SIGINT."""
        Consumer(
            self._hueys[queue],
            workers=1,
            periodic=False,
            initial_delay=_FIRST_DELAY,
            max_delay=_LONGEST_DELAY,
        ).run()
