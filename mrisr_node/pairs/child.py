"""The process that makes the pairs of one scan: ``python -m mrisr_node.pairs.child``.

It reads one task, a JSON object, from standard input, and writes one JSON object a line to standard
output: a stage and the part of it that is done, and at last what became of it. So a scan that kills
its process takes no other with it, and its memory is its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

__all__ = ["ONE_THREAD", "main"]

ONE_THREAD = dict.fromkeys(
    ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
"""Environment in which sums are always taken in the same order, and a core is a scan's."""

_PR_SET_PDEATHSIG = 1  # prctl(2)
_NICENESS = 10  # data to train on can wait for what patients wait for


def main() -> int:
    """Do one task."""
    # Ctrl-C reaches everyone at a terminal; whoever started this process ends it, or takes it along
    # where it is killed itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICENESS)
    # Libraries print; what they do must not get between the lines.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(**values: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
        lines.write(json.dumps(values) + "\n")

    from mrisr_node.errors import NodeError, NotEligible

    try:
        tell(**_make(json.loads(sys.stdin.read()), tell))
    except BrokenPipeError:
        return 1  # nobody is there any more
    except NotEligible as error:
        tell(state="skipped", reason=str(error))
    except NodeError as error:
        tell(state="failed", reason=str(error))
    except Exception as error:  # noqa: BLE001 - one bad scan must not end the others
        # Its words may hold a path, and reach others than the user.
        tell(state="failed", reason=_words(error), traceback=traceback.format_exc())
    return 0


def _words(error: Exception) -> str:
    from mrisr_node.durable import is_disk_full

    if isinstance(error, MemoryError):
        return "there was not enough memory for it"
    if is_disk_full(error):
        return "the disk is full"
    return f"it could not be processed ({type(error).__name__}); the log tells where"


def _make(task: dict[str, Any], tell: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    import torch

    from mrisr_node.pairs.making import PairStage, make_pairs_of
    from mrisr_node.pairs.names import Names
    from mrisr_node.pairs.options import PairOptions
    from mrisr_node.superres.peak_memory import own_peak

    torch.set_num_threads(1)
    seconds: dict[PairStage, float] = {}
    began: list[tuple[PairStage, float]] = []

    def report(stage: PairStage, part: float) -> None:
        if not began or began[-1][0] is not stage:
            began.append((stage, time.monotonic()))
        tell(stage=stage.value, part=part)

    make_pairs_of(
        [Path(path) for path in task["paths"]],
        task["sha256"],
        Names(
            task["subject"],
            task["run"],
            task["contrast"],
            PairOptions.from_json(task["options"]),
        ),
        Path(task["drafts"]),
        report,
    )
    ends = [start for _, start in began[1:]] + [time.monotonic()]
    for (stage, start), end in zip(began, ends, strict=True):
        seconds[stage] = round(end - start, 2)
    return {"state": "done", "seconds": seconds, "peak_mib": own_peak() // 2**20}


if __name__ == "__main__":
    sys.exit(main())
