"""A worker that is killed once in every stage, at the worst moment: done, and not yet recorded.

Run as ``python dying_worker.py QUEUE FOLDER``; the folder remembers which stages killed already.
"""

import os
import signal
import sys
from pathlib import Path

from mrisr_node.jobs import pipeline
from mrisr_node.jobs.stages import Queue
from mrisr_node.jobs.work import Worker
from mrisr_node.records import open_records
from mrisr_node.settings import load_settings


def _deadly(stage, work, marks):
    def run(workspace):
        work(workspace)
        mark = marks / stage.value
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return run


if __name__ == "__main__":
    queue, marks = Queue(sys.argv[1]), Path(sys.argv[2])
    for stage, work in list(pipeline._STAGES.items()):
        pipeline._STAGES[stage] = _deadly(stage, work, marks)
    settings = load_settings()
    open_records(settings.database_path)
    Worker(settings).run(queue)
