"""A worker that is killed once in every stage: in the middle, or done and not yet recorded.

Run as ``python dying_worker.py QUEUE FOLDER``; the folder remembers which stages killed already.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

from mrisr_node.jobs import pipeline
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.records import open_records
from mrisr_node.settings import load_settings

# Stages that tell how far they are die half-way, the others when done and not yet recorded.
HALF_WAY = {Stage.BRAIN, Stage.SUPERRESOLVE, Stage.STORE}


def _deadly(stage, work, marks):
    mark = marks / stage.value

    def die():
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def run(workspace):
        if stage in HALF_WAY:
            tell = workspace.progress

            def progress(part):
                tell(part)
                if 0.2 < part < 1:
                    die()

            workspace = dataclasses.replace(workspace, progress=progress)
        elif stage is Stage.CONVERT:
            # And a file that was being written.
            (workspace.folder / "source.nii.gz").write_bytes(b"half a file")
        work(workspace)
        if stage not in HALF_WAY:
            die()

    return run


if __name__ == "__main__":
    queue, marks = Queue(sys.argv[1]), Path(sys.argv[2])
    for stage, work in list(pipeline._STAGES.items()):
        pipeline._STAGES[stage] = _deadly(stage, work, marks)
    settings = load_settings()
    open_records(settings.database_path)
    Worker(settings).run(queue)
