"""Workers that are back at once when they are killed: forked from a process that has imported all.

Run with ``fault_points`` in place; ends when its standard input does.
"""

import os
import select
import signal
import sys

import fault_points

from mrisr_node.jobs.stages import Queue
from mrisr_node.jobs.work import Worker
from mrisr_node.records import open_records
from mrisr_node.settings import load_settings


def _start(queue: Queue) -> int:
    child = os.fork()
    if child:
        return child
    try:
        settings = load_settings()
        open_records(settings.database_path)
        fault_points.role = queue.value
        Worker(settings).run(queue)
    finally:
        os._exit(1)


def main() -> None:
    workers = {_start(queue): queue for queue in Queue}
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        for child in list(workers):
            if os.waitpid(child, os.WNOHANG)[0]:
                queue = workers.pop(child)
                workers[_start(queue)] = queue
    for child in workers:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
