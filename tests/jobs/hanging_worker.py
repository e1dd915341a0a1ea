"""A worker whose first stage waits for itself for ever: ``python hanging_worker.py``."""

import threading

from mrisr_node.jobs import pipeline
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.records import open_records
from mrisr_node.settings import load_settings


def _hang(_workspace):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


if __name__ == "__main__":
    pipeline._STAGES[Stage.CONVERT] = _hang
    settings = load_settings()
    open_records(settings.database_path)
    Worker(settings).run(Queue.CPU)
