"""Screening in a child process: a file that crashes the parser or fills memory costs only that.

``python -m mrisr_node.intake.screener`` reads a request a line from standard input and answers with
a line: JSON both ways. `Screener` is the other end of it.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mrisr_node.intake.screening import Header, Rejected, screen
from mrisr_node.intake.statuses import StoreStatus

__all__ = ["Screener", "main"]

_log = logging.getLogger(__name__)

_MEMORY = 1536 * 1024**2
"""Address space of the child, besides three times the file: parsing and decoding copy it."""
_SECONDS = 20.0
"""Of the processor, for one file; and one more for every two megabytes."""
_LONGEST = 120.0
"""By the clock, for one file of any size: others wait meanwhile."""
_END_SECONDS = 5.0
"""For a child that says nothing more to be gone."""
_RETIRE_AFTER = 20_000
"""Files after which a child makes room for a fresh one: what its libraries leak goes with it. So it
does at once where a file has left it with half of its memory, which the next ones would lack."""


class Screener:
    """Screens files, one at a time, in a child that is started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._screened = 0

    def start(self) -> None:
        """Start the child now, so that the first file need not wait for it."""
        with self._lock:
            self._living()

    def screen(
        self,
        path: Path,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Header:
        """Do what :func:`mrisr_node.intake.screening.screen` does, in the child.

        Parameters
        ----------
        path, sop_class_uid, sop_instance_uid
            As there.
        meanwhile
            Done here while the child is busy; what it raises is raised.

        Raises
        ------
        Rejected
            Also where the child crashed, ran out of memory or took too long.
        """
        seconds = min(_SECONDS + path.stat().st_size / (2 * 1024**2), _LONGEST)
        request = {
            "path": str(path),
            "sop_class_uid": sop_class_uid,
            "sop_instance_uid": sop_instance_uid,
            "seconds": seconds,
        }
        with self._lock:
            ends = time.monotonic() + min(2 * seconds, _LONGEST)
            answer = self._ask(request, ends, meanwhile)
            if answer is None:
                # Out of memory elsewhere, or somebody's signal: that is not the file's fault. If
                # it is, the next child dies, too.
                answer = self._ask(request, ends)
            if answer is None:
                answer = _no_answer("was ended by a signal, twice")
        if "header" in answer:
            return Header(**answer["header"])
        raise Rejected(answer["status"], answer["reason"], *answer.get("said", ()))

    def stop(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _living(self) -> subprocess.Popen[str]:
        if self._screened >= _RETIRE_AFTER or (self._child and self._child.poll() is not None):
            self._end()
        if self._child is None:
            self._screened = 0
            self._child = subprocess.Popen(
                # Warnings of pydicom quote what they warn of, and that can be a patient's name.
                [sys.executable, "-W", "ignore", "-m", "mrisr_node.intake.screener"],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._screened += 1
        return self._child

    def _ask(
        self,
        request: dict[str, Any],
        ends: float,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[str, Any] | None:
        """Return the child's answer, or None where a signal ended it that is no limit of ours."""
        child, asked = self._living(), time.monotonic()
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the screening process has no pipes")
        with suppress(OSError):  # it is gone, and has no answer either
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
        try:
            meanwhile()
        except BaseException:
            # Its answer would be taken for that to the next question.
            self._end()
            raise
        left = max(0.0, ends - time.monotonic())
        readable, _, _ = select.select([child.stdout], [], [], left)
        line = child.stdout.readline() if readable else ""
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            if answer.pop("spent"):
                self._end()
            return answer
        if readable:
            with suppress(subprocess.TimeoutExpired):  # the status is to be its own
                child.wait(_END_SECONDS)
        self._end()
        code = child.returncode
        if not readable:
            how = f"took more than {ends - asked:.0f} s"
        elif code == -signal.SIGXCPU:
            how = f"took more than {request['seconds']:.0f} s of the processor"
        else:
            how = f"ended with status {code}"
        _log.warning("screening a file %s; its process was started anew", how)
        if readable and code < 0 and code != -signal.SIGXCPU:
            return None
        return _no_answer(how)

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with suppress(OSError):  # what was not flushed has no reader any more
                    pipe.close()


def _no_answer(how: str) -> dict[str, Any]:
    return {
        "status": StoreStatus.CANNOT_UNDERSTAND,
        "reason": f"the process that looked at it {how}",
    }


def main() -> int:
    """Answer requests until standard input ends."""
    _limit(resource.RLIMIT_CORE, 0)
    logging.disable()  # for the same reason
    # A library that prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        request = json.loads(line)
        path = Path(request["path"])
        _limit(resource.RLIMIT_AS, _MEMORY + 3 * path.stat().st_size)
        _limit(resource.RLIMIT_CPU, int(time.process_time() + request["seconds"]) + 1)
        try:
            header = screen(path, request["sop_class_uid"], request["sop_instance_uid"])
            answer: dict[str, Any] = {"header": asdict(header)}
        except Rejected as error:
            said = (
                error.sop_class_uid, error.sop_instance_uid, error.series_instance_uid,
                error.study_instance_uid, error.patient_id,
            )  # fmt: skip
            answer = {"status": error.status, "reason": str(error), "said": said}
        answer["spent"] = _address_space() > _MEMORY // 2
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def _address_space() -> int:
    """Return the bytes that the limit counts, with those that a decoder has not given back."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _limit(kind: int, value: int) -> None:
    """Set the soft limit of a resource; the hard one stays, so that it can be raised again."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    sys.exit(main())
