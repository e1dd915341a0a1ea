"""Pairs of many scans: several at once as far as memory allows, and none that is there already."""

from __future__ import annotations

import json
import logging
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mrisr_node.errors import SettingsError
from mrisr_node.pairs.child import ONE_THREAD
from mrisr_node.pairs.dataset import Dataset
from mrisr_node.pairs.making import PairStage
from mrisr_node.pairs.memory import FIRST_GUESS, available_memory, resident_memory
from mrisr_node.pairs.names import Names
from mrisr_node.pairs.options import PairOptions
from mrisr_node.pairs.scans import Scan, find_scans
from mrisr_node.pairs.standing import Clock, Running, Standing

__all__ = ["Outcome", "make_pairs"]

_log = logging.getLogger(__name__)

State = Literal["done", "there", "skipped", "failed"]

# Of a scan's peak, what the next one may need more.
_MARGIN = 1.15
_SECONDS_BETWEEN_LOOKS = 1.0
_DRAFTS = ".drafts-"
_CHILD = (sys.executable, "-m", "mrisr_node.pairs.child")


@dataclass(frozen=True)
class Outcome:
    """What became of one scan.

    Parameters
    ----------
    source
        Its file, or the folder of its series. For the user: never written anywhere.
    state
        ``done``; ``there`` where it was made before; ``skipped`` where a folder had something in it
        that is no scan of high resolution; ``failed``.
    reason
        Why there are no pairs.
    subject
        Label of its subject in the dataset.
    seconds
        By stage.
    peak_mib
        Most memory that its process took.
    """

    source: Path
    state: State
    reason: str = ""
    subject: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: int = 0


def make_pairs(
    inputs: Iterable[Path],
    folder: Path,
    options: PairOptions | None = None,
    *,
    jobs: int | None = None,
    licence: str | None = None,
    archive: bool = False,
    watch: Callable[[Standing], None] = lambda _: None,
    ended: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Make pairs of scans in a dataset.

    It may be ended at any moment and run again: a scan whose files are there and as the manifest
    says is not made again.

    Parameters
    ----------
    inputs
        NIfTI files, DICOM files, and folders of either.
    folder
        Of the dataset: new, empty, or made before.
    jobs
        Most scans at once; by default as many as there are processors. Memory may allow fewer.
    licence
        That the dataset is given.
    archive
        Whether the dataset is put into one ZIP beside its folder, too.
    watch
        Told how far it has come; what it raises ends the work.
    ended
        Told what became of each scan, as soon as it is known.

    Raises
    ------
    SettingsError
        The folder cannot be used.
    """
    options = options or PairOptions()
    paths = list(inputs)
    place = folder.resolve()
    if any(path.resolve() in (place, *place.parents) for path in paths):
        raise SettingsError("the pairs must not lie in what they are made from")
    with closing(Dataset(folder)) as dataset:
        for left in folder.glob(f"{_DRAFTS}*"):
            shutil.rmtree(left)  # of a run that was killed
        work = _Work(dataset, options, find_scans(paths), watch, ended)
        outcomes = work.do(jobs or len(os.sched_getaffinity(0)))
        if not dataset.is_empty:
            dataset.describe(licence)
            if archive:
                dataset.archive()
    return outcomes


@dataclass
class _Child:
    """A process that makes the pairs of one scan."""

    scan: Scan
    names: Names
    drafts: Path
    process: subprocess.Popen[bytes]
    running: Running
    told: dict[str, Any] = field(default_factory=dict)
    unread: bytes = b""

    def read(self) -> bool:
        """Take in what it says; tell whether it goes on."""
        assert self.process.stdout is not None  # noqa: S101 - narrows the type only
        block = os.read(self.process.stdout.fileno(), 2**16)
        *lines, self.unread = (self.unread + block).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "stage" in told:
                stage = PairStage(told["stage"])
                self.running = Running(self.running.number, stage, float(told["part"]))
            else:
                self.told = told
        return bool(block)


class _Work:
    """All scans of one run."""

    def __init__(
        self,
        dataset: Dataset,
        options: PairOptions,
        scans: Sequence[Scan],
        watch: Callable[[Standing], None],
        ended: Callable[[Outcome], None],
    ) -> None:
        self._dataset = dataset
        self._options = options
        self._scans = scans
        self._names = dataset.names(scans, options)
        self._watch = watch
        self._told = ended
        self._outcomes: dict[str, Outcome] = {}
        self._children: dict[str, _Child] = {}
        self._clock = Clock()
        self._need = FIRST_GUESS
        self._selector = selectors.DefaultSelector()

    def do(self, most: int) -> list[Outcome]:
        """Make the pairs of each scan, and return what became of them in their order."""
        waiting = [
            (number, scan)
            for number, scan in enumerate(self._scans, start=1)
            if not self._is_settled(scan)
        ]
        with self._ending_children():
            while waiting or self._children:
                while waiting and len(self._children) < most and self._has_memory():
                    self._start(*waiting.pop(0))
                self._tell()
                for key, _ in self._selector.select(_SECONDS_BETWEEN_LOOKS):
                    child: _Child = key.data
                    if not child.read():
                        self._end(child)
        self._tell()
        return [self._outcomes[scan.sha256] for scan in self._scans]

    def _is_settled(self, scan: Scan) -> bool:
        """Tell whether nothing is to be done, and note why."""
        names = self._names[scan.sha256]
        if not names.contrast:
            self._settle(
                scan,
                "failed",
                "its contrast cannot be told: say whether it is T1w, T2w, FLAIR or PDw",
            )
        elif self._dataset.has(scan, self._options):
            self._settle(scan, "there", subject=names.subject)
        return scan.sha256 in self._outcomes

    def _settle(self, scan: Scan, state: State, reason: str = "", **known: Any) -> None:  # noqa: ANN401
        outcome = Outcome(scan.source, state, reason, **known)
        self._outcomes[scan.sha256] = outcome
        self._told(outcome)

    def _tell(self) -> None:
        running = tuple(child.running for child in self._children.values())
        total, ended = len(self._scans), len(self._outcomes)
        self._watch(self._clock.standing(total, ended, running, self._need))

    def _has_memory(self) -> bool:
        """Tell whether one more fits beside those that have not reached their peak yet."""
        if not self._children:
            return True
        taken = [resident_memory(child.process.pid) for child in self._children.values()]
        promised = sum(max(0, self._need - held) for held in taken)
        return available_memory() - promised >= self._need

    def _start(self, number: int, scan: Scan) -> None:
        names = self._names[scan.sha256]
        drafts = Path(tempfile.mkdtemp(prefix=_DRAFTS, dir=self._dataset.folder))
        process = subprocess.Popen(
            _CHILD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | ONE_THREAD,
        )
        child = _Child(scan, names, drafts, process, Running(number))
        self._children[scan.sha256] = child
        self._selector.register(_piped(process.stdout), selectors.EVENT_READ, child)
        task = {
            "paths": [str(path.resolve()) for path in scan.paths],
            "sha256": scan.sha256,
            "subject": names.subject,
            "run": names.run,
            "contrast": names.contrast,
            "options": self._options.as_json(),
            "drafts": str(drafts.resolve()),
        }
        with suppress(BrokenPipeError), _piped(process.stdin) as pipe:  # its end tells the rest
            pipe.write(json.dumps(task).encode())

    def _end(self, child: _Child) -> None:
        scan, told = child.scan, child.told
        self._forget(child)
        if told.get("state") == "done":
            self._dataset.add(scan, child.names, child.drafts)
            self._clock.learn({PairStage(s): v for s, v in told["seconds"].items()})
            measured = int(told["peak_mib"] * 2**20 * _MARGIN)
            first = sum(o.state == "done" for o in self._outcomes.values()) == 0
            self._need = measured if first else max(self._need, measured)
            self._settle(
                scan,
                "done",
                subject=child.names.subject,
                seconds=told["seconds"],
                peak_mib=told["peak_mib"],
            )
        elif told.get("state") == "skipped" and not scan.named:
            self._settle(scan, "skipped", told["reason"])
        else:
            _log.debug("a scan failed: %s", told.get("traceback", ""))
            gone = f"its process ended with {child.process.returncode}; is there enough memory?"
            self._settle(scan, "failed", told.get("reason", gone))
        shutil.rmtree(child.drafts)

    def _forget(self, child: _Child) -> None:
        pipe = _piped(child.process.stdout)
        self._selector.unregister(pipe)
        pipe.close()
        child.process.wait()
        del self._children[child.scan.sha256]

    @contextmanager
    def _ending_children(self) -> Iterator[None]:
        """Leave no process behind, however the work ends."""
        try:
            yield
        finally:
            for child in list(self._children.values()):
                child.process.kill()
                self._forget(child)
                shutil.rmtree(child.drafts, ignore_errors=True)
            self._selector.close()


def _piped(pipe: Any) -> Any:  # noqa: ANN401 - Popen's pipes are None only where not asked for
    assert pipe is not None  # noqa: S101 - narrows the type only
    return pipe
