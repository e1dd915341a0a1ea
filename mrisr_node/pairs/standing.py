"""How far the making of pairs has come, and how long it is going to take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mrisr_node.pairs.making import PairStage

__all__ = ["Clock", "Running", "Standing"]

# Of the time of a scan, measured: only what bars show before a scan was done; never a time.
_SHARES = {
    PairStage.READ: 0.03,
    PairStage.BRAIN: 0.2,
    PairStage.BIAS: 0.17,
    PairStage.REGISTER: 0.57,
    PairStage.WRITE: 0.03,
}


@dataclass(frozen=True)
class Running:
    """A scan that is being worked on.

    Parameters
    ----------
    number
        Which of all, from 1.
    stage, part
        What is done to it, and the part of that which is done. Of some stages nobody knows it
        before they end.
    """

    number: int
    stage: PairStage = PairStage.READ
    part: float = 0.0


@dataclass(frozen=True)
class Standing:
    """How far all scans have come.

    Parameters
    ----------
    total, ended
        Scans; those that are made, were there already, or could not be made.
    running
        Those that are worked on.
    part
        Of everything, from 0 to 1.
    seconds_left
        None as long as no scan has been done: nobody knows.
    each_bytes
        Memory that has to be free for one more scan to be begun beside others.
    """

    total: int
    ended: int
    running: tuple[Running, ...]
    part: float
    seconds_left: float | None
    each_bytes: int = 0


@dataclass
class Clock:
    """Learns from each scan that is done how long its stages take."""

    _done: list[Mapping[PairStage, float]] = field(default_factory=list)

    def learn(self, seconds: Mapping[PairStage, float]) -> None:
        """Note the stages of a scan that was done."""
        self._done.append(seconds)

    def standing(
        self, total: int, ended: int, running: tuple[Running, ...], each_bytes: int = 0
    ) -> Standing:
        """Return how far everything has come."""
        shares = self._mean() or _SHARES
        whole = sum(shares.values())
        parts = sum(1 - _left(scan, shares) / whole for scan in running)
        left = self._left(total - ended - len(running), running) if self._done else None
        part = (ended + parts) / total if total else 1.0
        return Standing(total, ended, running, min(part, 1.0), left, each_bytes)

    def _mean(self) -> Mapping[PairStage, float]:
        count = len(self._done)
        return {
            stage: sum(seconds.get(stage, 0.0) for seconds in self._done) / count
            for stage in PairStage
            if count
        }

    def _left(self, waiting: int, running: tuple[Running, ...]) -> float:
        """Return the time until the last ends, if as many go on being worked on at once."""
        mean = self._mean()
        lefts = [_left(scan, mean) for scan in running]
        work = sum(lefts) + waiting * sum(mean.values())
        return max(work / max(len(running), 1), *lefts, 0.0)


def _left(scan: Running, seconds: Mapping[PairStage, float]) -> float:
    """Return what is left of a scan, in the unit of what its stages take."""
    stages = list(PairStage)
    after = stages[stages.index(scan.stage) + 1 :]
    return (1 - scan.part) * seconds[scan.stage] + sum(seconds[stage] for stage in after)
